"""Loading refuses numbers that no answer would come of, and brings matrices where they are read fast."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs
from torch import Tensor

from model.checkpoint import tensor_shapes
from model.config import ChatGLMConfig
from model.convert import convert
from model.loading import load_weights
from model.mma_tiles import MmaWeight
from model.packed import Layout
from model.published import Published
from model.quantize import QuantizedWeight
from model.tiles import TiledWeight, to_tiles
from model.types import ModelError
from model.weights import Matrix, Weights, in_rows

DATA = Path(__file__).parent.parent / "data" / "chatglm"
NORM = "transformer.layers.1.input_layernorm.weight"
DENSE = "transformer.layers.2.attention.dense"


def spoil(file: Path, tensor: str, value: str) -> None:
    """Make the last value of a stored tensor NaN or infinite."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    state[tensor].view(-1)[-1] = float(value)
    save_file(state, file, metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(DATA / "config.json", tmp_path)
    return tmp_path


def refused(file: Path, tensor: str) -> None:
    with pytest.raises(ModelError, match="not finite") as caught:
        load_weights(file)
    assert (caught.value.file, caught.value.tensor) == (file, tensor)
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("form", "tensor"),
    [
        ("model", NORM),
        ("model", "transformer.final_layernorm.bias"),
        ("model", f"{DENSE}.bias"),
        ("int4_checkpoint", f"{DENSE}.weight_scale"),
        ("int8_checkpoint", f"{DENSE}.weight_scale"),
    ],
)
def test_published_vectors_and_scales_must_be_finite(
    form: str, tensor: str, value: str, folder: Path
) -> None:
    file = folder / "model.safetensors"
    shutil.copyfile(DATA / f"{form}.safetensors", file)
    load_weights(file)
    spoil(file, tensor, value)
    refused(file, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        NORM,
        f"{DENSE}.weight_scale",
        f"{DENSE}.weight_zero",
        "transformer.word_embeddings.weight_scale",
    ],
)
def test_packed_vectors_scales_and_zero_points_must_be_finite(tensor: str, tmp_path: Path) -> None:
    file = convert(DATA / "model.safetensors", tmp_path, hqq=True)
    load_weights(file)
    spoil(file, tensor, "nan")
    refused(file, tensor)


def test_what_is_not_finite_is_not_converted_either(folder: Path) -> None:
    file = folder / "model.safetensors"
    shutil.copyfile(DATA / "model.safetensors", file)
    spoil(file, NORM, "inf")
    with pytest.raises(ModelError, match="not finite"):
        convert(file, folder / "packed")


# -- where matrices lie ---------------------------------------------------------------------

CONFIG = ChatGLMConfig(
    vocab_size=4096,
    hidden_size=1024,
    num_layers=3,
    num_attention_heads=8,
    inner_hidden_size=4096,
    bos_token_id=4000,
    eos_token_id=4001,
    mask_token_id=4002,
    gmask_token_id=4003,
    pad_token_id=3,
)
FEW = 8 << 20
"""Bytes of two matrices, and of huge pages around them."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    """A file of 22 MB in each layout; its largest matrix has 4 MiB."""
    source = tmp_path_factory.mktemp("source")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1 << 22, generator=generator).half()
    shapes = tensor_shapes(CONFIG)
    Published("safetensors", CONFIG, lambda name: values[: math.prod(shapes[name])].view(shapes[name])).write(
        source
    )
    rows = convert(source, source / "rows.safetensors", search=False, layout="rows")
    orders: tuple[Layout, ...] = ("tiles16", "mma16")
    return {"rows": rows} | {
        layout: convert(rows, source / f"{layout}.safetensors", layout=layout) for layout in orders
    }


def mapped_bytes(file: Path) -> int:
    """Of a file, resident in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        next(int(row.split()[1]) * 1024 for row in lines if row.startswith("Rss:"))
        for line in lines
        if line.endswith(str(file))
    )


def tiled(matrix: Matrix) -> Matrix:
    """As a CPU's kernels have it."""
    rows = matrix if isinstance(matrix, TiledWeight) else in_rows(matrix)
    return to_tiles(rows) if isinstance(rows, QuantizedWeight) else rows


def matrices(weights: Weights) -> list[TiledWeight]:
    found = [weights.word_embeddings]
    for block in weights.blocks:
        linears = (block.query_key_value, block.dense, block.dense_h_to_4h, block.dense_4h_to_h)
        found += [linear.weight for linear in linears]
    assert all(isinstance(matrix, TiledWeight) for matrix in found)
    return [matrix for matrix in found if isinstance(matrix, TiledWeight)]


def equal(found: Weights, wanted: Weights) -> bool:
    pairs = zip(matrices(found), matrices(wanted), strict=True)
    return all(
        torch.equal(one.packed, other.packed) and torch.equal(one.scale, other.scale) for one, other in pairs
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident")
def test_copies_are_made_matrix_by_matrix(
    packed: dict[Layout, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in memory twice: what was copied, or put into another order, is let go of at once."""
    found: dict[str, Weights] = {}
    for layout, file in packed.items():
        resident: list[int] = []

        def prepare(matrix: Matrix, file: Path = file, resident: list[int] = resident) -> Matrix:
            resident.append(mapped_bytes(file))
            return tiled(matrix)

        monkeypatch.setenv("GLMBOT_CPU_WEIGHTS", "copied")
        _, found[layout] = load_weights(file, prepare=prepare)
        assert len(resident) == 13
        assert max(resident) < FEW
        assert mapped_bytes(file) < FEW
    assert equal(found["rows"], found["tiles16"])
    assert equal(found["rows"], found["mma16"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident")
@pytest.mark.parametrize("layout", ["rows", "tiles16", "mma16"])
def test_matrices_are_put_in_order_on_the_device(packed: dict[Layout, Path], layout: Layout) -> None:
    """They are there when `prepare` gets them, and the file's memory is let go of at once."""
    file = packed[layout]
    resident: list[int] = []

    def prepare(matrix: Matrix) -> Matrix:
        assert not isinstance(matrix, Tensor)
        assert isinstance(matrix, MmaWeight if layout == "mma16" else QuantizedWeight)
        assert matrix.packed.device.type == matrix.scale.device.type == "meta"
        resident.append(mapped_bytes(file))
        return matrix

    _, weights = load_weights(file, device=torch.device("meta"), prepare=prepare)
    assert len(resident) == 13
    assert max(resident) < FEW
    assert weights.final_layernorm.weight.device.type == "meta"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")
def test_tiles_stay_mapped_where_they_are_not_copied(
    packed: dict[Layout, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Weights] = {}
    for wish in ("copied", "mapped"):
        monkeypatch.setenv("GLMBOT_CPU_WEIGHTS", wish)
        with capture_logs() as logged:
            _, found[wish] = load_weights(packed["tiles16"], prepare=tiled)
        told = [line for line in logged if line.get("reason") == "GLMBOT_CPU_WEIGHTS says so"]
        assert len(told) == 1
        if wish == "mapped":  # as a whole, and at once
            assert mapped_bytes(packed["tiles16"]) >= sum(matrix.nbytes for matrix in matrices(found[wish]))
        else:
            assert mapped_bytes(packed["tiles16"]) < FEW
    assert equal(found["mapped"], found["copied"])


def test_tiles_are_put_into_rows_where_nothing_reads_tiles(packed: dict[Layout, Path]) -> None:
    tables = [load_weights(packed[layout])[1].word_embeddings for layout in packed]
    assert all(isinstance(table, QuantizedWeight) for table in tables)
    assert len({bytes(table.packed.numpy()) for table in tables if isinstance(table, QuantizedWeight)}) == 1


def no_room(*_: object, **__: object) -> Matrix:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("layout", ["rows", "tiles16", "mma16"])
def test_a_device_that_fills_up_meanwhile(packed: dict[Layout, Path], layout: Layout) -> None:
    file = packed[layout]
    with pytest.raises(ModelError, match="no room on the device; close") as caught:
        load_weights(file, device=torch.device("meta"), prepare=no_room)
    assert caught.value.tensor == "transformer.word_embeddings.weight"


def test_a_device_without_the_room_to_quantise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.loading.quantize_int8", no_room)
    with pytest.raises(ModelError, match="no room on the device; close") as caught:
        load_weights(DATA / "model.safetensors", device=torch.device("meta"))
    assert caught.value.tensor == "transformer.word_embeddings.weight"
