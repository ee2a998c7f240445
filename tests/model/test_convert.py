"""Published checkpoints become packed files and weights in memory; integers stay as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from model import memory, packed_writer
from model.checkpoint import EMBEDDINGS, Checkpoint, is_linear, is_matrix, tensor_shapes
from model.config import PACKED_NAME, ChatGLMConfig
from model.convert import convert
from model.kernels.library import NoLibrary
from model.loading import load_weights
from model.mma_tiles import MmaWeight
from model.packed import Packed, Scheme
from model.published import Published, PublishedForm
from model.quantize import (
    QuantizedWeight,
    from_thudm,
    quantize_int4,
    quantize_int4_hqq,
    quantize_int8,
    quantize_thudm,
)
from model.tiles import TiledWeight
from model.tokenizer import SPECIAL_PIECES
from model.types import ModelError
from model.weights import Matrix, Weights, in_rows

CONFIG = ChatGLMConfig(
    vocab_size=80,
    hidden_size=48,
    num_layers=2,
    num_attention_heads=2,
    inner_hidden_size=104,
    bos_token_id=74,
    eos_token_id=75,
    mask_token_id=70,
    gmask_token_id=71,
    pad_token_id=3,
)
DOWN = "transformer.layers.1.mlp.dense_4h_to_h.weight"
NORM = "transformer.final_layernorm.weight"


def random_values(name: str, config: ChatGLMConfig = CONFIG) -> Tensor:
    """Float16 normals with a few outliers, the same for a name each time."""
    generator = torch.Generator().manual_seed(len(name) * 1000 + sum(name.encode()))
    values = torch.randn(tensor_shapes(config)[name], generator=generator)
    return (values * (1 + 9 * (values.abs() > 2.5))).half()


def vocabulary(first_special: int = CONFIG.mask_token_id) -> bytes:
    """A SentencePiece file with the special pieces where CONFIG has them."""

    def piece(text: str, kind: int) -> bytes:
        message = bytes([0x0A, len(text)]) + text.encode() + b"\x15" + bytes(4) + bytes([0x18, kind])
        return bytes([0x0A, len(message)]) + message

    unknown, normal, control = 2, 1, 3
    pieces = [("<unk>", unknown), *((f"piece{number}", normal) for number in range(1, first_special))]
    return b"".join(piece(*each) for each in [*pieces, *((special, control) for special in SPECIAL_PIECES)])


def publish(folder: Path, form: PublishedForm = "safetensors", dtype: torch.dtype = torch.float16) -> Path:
    folder.mkdir()
    Published(form, CONFIG, random_values, dtype).write(folder)
    (folder / "ice_text.model").write_bytes(vocabulary())
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return publish(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def same(found: Matrix, wanted: Matrix) -> bool:
    """Whatever their order is."""
    found, wanted = in_rows(found), in_rows(wanted)
    if isinstance(found, Tensor) or isinstance(wanted, Tensor):
        return (
            isinstance(found, Tensor)
            and isinstance(wanted, Tensor)
            and (found.dtype == wanted.dtype)
            and torch.equal(found, wanted)
        )
    if (found.zero is None) != (wanted.zero is None):
        return False
    return (
        (found.bits, found.in_features) == (wanted.bits, wanted.in_features)
        and torch.equal(found.packed, wanted.packed)
        and found.scale.dtype == wanted.scale.dtype
        and torch.equal(found.scale, wanted.scale)
        and (found.zero is None or wanted.zero is None or torch.equal(found.zero, wanted.zero))
    )


def parameters(weights: Weights) -> dict[str, Matrix]:
    """By official name."""
    found: dict[str, Matrix] = {EMBEDDINGS: weights.word_embeddings}
    for layer, block in enumerate(weights.blocks):
        prefix = f"transformer.layers.{layer}"
        for name, module in (
            ("input_layernorm", block.input_layernorm),
            ("attention.query_key_value", block.query_key_value),
            ("attention.dense", block.dense),
            ("post_attention_layernorm", block.post_attention_layernorm),
            ("mlp.dense_h_to_4h", block.dense_h_to_4h),
            ("mlp.dense_4h_to_h", block.dense_4h_to_h),
        ):
            found[f"{prefix}.{name}.weight"] = module.weight
            found[f"{prefix}.{name}.bias"] = module.bias
    found[NORM] = weights.final_layernorm.weight
    found["transformer.final_layernorm.bias"] = weights.final_layernorm.bias
    return found


def load(path: Path, **options: Any) -> dict[str, Matrix]:
    config, weights = load_weights(path, **options)
    assert config == CONFIG
    found = parameters(weights)
    assert list(found) == list(tensor_shapes(CONFIG))
    return found


# -- quantising floats ----------------------------------------------------------------------

QUANTIZERS: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, lambda weight: quantize_int4(weight, 64), quantize_int8),
    ({"group_size": 32}, lambda weight: quantize_int4(weight, 32), quantize_int8),
    ({"search": False}, lambda weight: quantize_int4(weight, 64, search=False), quantize_int8),
    ({"hqq": True}, lambda weight: quantize_int4_hqq(weight, 64), quantize_int8),
    ({"quantization": "int8"}, quantize_int8, quantize_int8),
    ({"head": "float16"}, lambda weight: quantize_int4(weight, 64), lambda weight: weight),
    ({"quantization": "none"}, lambda weight: weight, lambda weight: weight),
    ({"quantization": "none", "head": "int8"}, lambda weight: weight, quantize_int8),
    ({"quantization": "none", "dtype": torch.bfloat16}, Tensor.bfloat16, Tensor.bfloat16),
]


@pytest.mark.parametrize(("options", "linear", "head"), QUANTIZERS)
def test_floats_are_quantised_as_asked(
    source: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    linear: Any,
    head: Any,
) -> None:
    """Also where no group divides the columns."""
    packed = Packed.open(convert(source, target, **options))
    assert packed.config == CONFIG
    for name in tensor_shapes(CONFIG):
        values = random_values(name)
        if name == EMBEDDINGS:
            assert same(packed.matrix(name), head(values)), name
        elif is_linear(name):
            assert same(packed.matrix(name), linear(values)), name
        else:
            stored = torch.float32 if "layernorm" in name else torch.float16
            assert same(packed.read(name), values.to(stored)), name


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_floats_keep_the_type_they_have_unless_another_is_asked(
    tmp_path: Path, target: Path, stored: torch.dtype
) -> None:
    source = publish(tmp_path / "wide", dtype=stored)
    cases: list[tuple[dict[str, Any], torch.dtype, torch.dtype]] = [
        ({}, stored, stored),
        ({"head": "float16"}, stored, torch.float16),
        ({"dtype": torch.float16}, torch.float16, torch.float16),
    ]
    for options, linear, head in cases:
        packed = Packed.open(convert(source, target, quantization="none", force=True, **options))
        assert (packed.dtype(DOWN), packed.dtype(EMBEDDINGS)) == (linear, head)
        assert same(packed.matrix(DOWN), random_values(DOWN).to(stored).to(linear))


@pytest.mark.parametrize("form", ["fp16-shards", "slim", "early"])
def test_every_float_form_gives_the_same_file(
    source: Path, target: Path, tmp_path: Path, form: PublishedForm
) -> None:
    other = convert(publish(tmp_path / "other", form), tmp_path / "packed")
    wanted, found = Packed.open(convert(source, target)), Packed.open(other)
    assert found.config == CONFIG
    assert found.scheme == wanted.scheme == Scheme()
    assert all(torch.equal(found.read(name), wanted.read(name)) for name in wanted.names)


def test_weight_that_is_no_number_is_named(tmp_path: Path, target: Path) -> None:
    def spoilt(name: str) -> Tensor:
        values = random_values(name)
        if name == DOWN:
            values[0, 0] = torch.inf
        return values

    (tmp_path / "source").mkdir()
    Published("safetensors", CONFIG, spoilt).write(tmp_path / "source")
    for use in (lambda: convert(tmp_path / "source", target), lambda: load_weights(tmp_path / "source")):
        with pytest.raises(ModelError) as caught:
            use()
        assert caught.value.tensor == DOWN
        assert caught.value.file == tmp_path / "source/model.safetensors"
    assert not (target / PACKED_NAME).exists()


# -- integers stay --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("quantization", ["int4", "int8", "none"])
def test_published_integers_are_kept_to_the_bit(
    tmp_path: Path, target: Path, form: PublishedForm, quantization: Any
) -> None:
    source = publish(tmp_path / "published", form)
    packed = Packed.open(convert(source, target, quantization=quantization))
    bits: Literal[4, 8] = 8 if form == "int8" else 4
    assert packed.scheme == Scheme(bits, None, False, None)
    in_memory = load(source, quantization=quantization, dtype=torch.float32)
    for name in tensor_shapes(CONFIG):
        wanted: Matrix = random_values(name)
        if is_linear(name):
            wanted = from_thudm(*quantize_thudm(random_values(name), bits), bits)
        if is_linear(name) or name == EMBEDDINGS:
            assert same(packed.matrix(name), wanted), name
            assert same(in_memory[name], wanted), name
        else:
            assert same(packed.read(name), wanted), name
            assert same(in_memory[name], random_values(name).float()), name


def test_embedding_of_published_integers_is_quantised_on_request_only(tmp_path: Path, target: Path) -> None:
    packed = Packed.open(convert(publish(tmp_path / "published", "int4"), target, head="int8"))
    assert packed.scheme.head_bits == 8
    assert same(packed.matrix(EMBEDDINGS), quantize_int8(random_values(EMBEDDINGS)))


# -- in memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["int4", "int8", "none"])
def test_checkpoint_and_its_packed_file_load_alike(source: Path, target: Path, quantization: Any) -> None:
    file = convert(source, target, quantization=quantization)
    wanted = load(source, quantization=quantization, dtype=torch.float16)
    for path in (target, file):
        found = load(path, quantization=quantization, dtype=torch.float16)
        assert all(same(found[name], matrix) for name, matrix in wanted.items())


def test_exact_path_keeps_every_float(source: Path) -> None:
    found = load(source, quantization="none", dtype=torch.float32)
    for name, matrix in found.items():
        assert same(matrix, random_values(name).float()), name


def test_packed_floats_are_quantised_when_asked(source: Path, target: Path) -> None:
    convert(source, target, quantization="none")
    found, wanted = (load(path, quantization="int4") for path in (target, source))
    assert all(same(found[name], matrix) for name, matrix in wanted.items())


def test_packed_integers_are_kept_whatever_is_asked(source: Path, target: Path) -> None:
    convert(source, target, group_size=32)
    found, wanted = (load(target, quantization=quantization) for quantization in ("none", "int4"))
    assert all(same(found[name], matrix) for name, matrix in wanted.items())
    assert isinstance(found[DOWN], QuantizedWeight)
    assert found[DOWN].group_size == 32


def test_packed_integers_stay_mapped(source: Path, target: Path) -> None:
    file = convert(source, target, layout="rows")
    found = load(file)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("nobody says what is mapped")
    spans = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(file) in line]
    matrices = [matrix for matrix in found.values() if isinstance(matrix, QuantizedWeight)]
    assert len(matrices) == 9
    for matrix in matrices:
        for tensor in (matrix.packed, matrix.scale):
            assert any(int(begin, 16) <= tensor.data_ptr() < int(end, 16) for begin, end in spans)


@pytest.mark.parametrize("quantization", ["int4", "int8", "none"])
@pytest.mark.parametrize("form", ["safetensors", "int4", "packed"])
def test_estimate_is_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, quantization: Any
) -> None:
    plans: list[memory.MemoryPlan] = []
    monkeypatch.setattr(memory, "check", lambda plan, device, file: plans.append(plan))
    path = publish(tmp_path / "source", "safetensors" if form == "packed" else form)
    if form == "packed":
        path = convert(path, tmp_path / "packed")
    found = load(path, quantization=quantization, dtype=torch.float32, context=100)
    assert plans[0].weights == sum(matrix.nbytes for matrix in found.values())
    assert plans[0].context == 100


def test_too_little_memory_is_refused_before_reading(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr(Checkpoint, "read", None)
    with capture_logs() as logged, pytest.raises(ModelError, match=r"needs [\d.]+ [kM]B") as caught:
        load_weights(source)
    assert caught.value.file == source
    assert [(line["log_level"], line["available"]) for line in logged] == [("info", "1.0 kB")]
    for part in ("weights", "kv_cache", "workspace"):
        assert logged[0][part] in caught.value.problem


# -- the folder -----------------------------------------------------------------------------


def test_target_is_complete(source: Path, target: Path) -> None:
    file = convert(source, target)
    assert file == target / PACKED_NAME
    assert {entry.name for entry in target.iterdir()} == {PACKED_NAME, "config.json", "ice_text.model"}
    assert (target / "ice_text.model").read_bytes() == vocabulary()
    assert ChatGLMConfig.read(target) == CONFIG


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is not a SentencePiece model"),
        (vocabulary()[:-40], "only a part of one"),
        (vocabulary(60), "two vocabularies are mixed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2706249\n", "Git LFS pointer"),
        (None, "cannot be read"),
    ],
    ids=["empty", "truncated", "another", "pointer", "folder"],
)
def test_a_tokenizer_that_would_not_load_is_refused_before_any_work(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, problem: str
) -> None:
    tokenizer = source / "ice_text.model"
    if data is None:
        tokenizer.unlink()
        tokenizer.mkdir()
    else:
        tokenizer.write_bytes(data)
    monkeypatch.setattr(Checkpoint, "read", None)
    for folder in (target, source):
        with pytest.raises(ModelError, match=problem) as caught:
            convert(source, folder)
        assert caught.value.file == tokenizer
        assert not (folder / PACKED_NAME).exists()


def test_a_source_without_a_tokenizer_is_converted(source: Path, target: Path) -> None:
    (source / "ice_text.model").unlink()
    convert(source, target)
    assert {entry.name for entry in target.iterdir()} == {PACKED_NAME, "config.json"}


def test_target_may_be_a_file(source: Path, target: Path) -> None:
    file = convert(source, target / "mine.safetensors")
    assert file == target / "mine.safetensors"
    alone = shutil.copy(file, target.parent / "alone.safetensors")
    assert Packed.open(alone).config == CONFIG
    assert load(alone)


def test_packing_in_place_changes_no_published_file(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", "early")
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    convert(source, source)
    assert {file.name: file.read_bytes() for file in source.iterdir() if file.name != PACKED_NAME} == before
    assert isinstance(load(source)[DOWN], QuantizedWeight)
    convert(source, source, quantization="none", force=True)  # the published files are still the source
    assert Packed.open(source).scheme.bits is None


def test_nothing_is_replaced_without_force(source: Path, target: Path) -> None:
    file = convert(source, target)
    with pytest.raises(ModelError, match="there already") as caught:
        convert(source, target, quantization="int8")
    assert caught.value.file == file
    assert Packed.open(file).scheme.bits == 4
    convert(source, target, quantization="int8", force=True)
    assert Packed.open(file).scheme.bits == 8


def test_files_of_another_model_are_not_replaced(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="there already") as caught:
        convert(source, target)
    assert caught.value.file == target / "config.json"
    assert [entry.name for entry in target.iterdir()] == ["config.json"]


def test_source_is_never_replaced(source: Path) -> None:
    before = (source / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="source itself"):
        convert(source, source / "model.safetensors", force=True)
    assert (source / "model.safetensors").read_bytes() == before


def test_damaged_packed_source_is_told_as_that(source: Path, target: Path) -> None:
    file = convert(source, target)
    os.truncate(file, 1_000)
    with pytest.raises(ModelError, match="truncated or damaged"):
        convert(file, target / "again.safetensors")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        convert(target, target / "again.safetensors")


@pytest.mark.parametrize("layout", ["auto", "rows", "tiles16", "mma16"])
def test_packed_source_that_would_stay_as_it_is_is_refused(
    source: Path, target: Path, tmp_path: Path, layout: Any
) -> None:
    file = convert(source, target, layout=layout)
    for packed in (file, target):
        with pytest.raises(ModelError, match="packed already"):
            convert(packed, tmp_path / "again", layout=layout)


# -- the layout -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"group_size": 32, "hqq": True}, {"group_size": 20}, {"head": "float16"}]
)
def test_layouts_convert_into_each_other_without_loss(
    source: Path, target: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Groups of 20 columns have no tiles: they stay rows, and the embedding goes into tiles."""
    rows = Packed.open(convert(source, target, layout="rows", **options))
    tiles = Packed.open(convert(target, tmp_path / "tiles", layout="tiles16"))
    again = Packed.open(convert(tmp_path / "tiles", tmp_path / "again", layout="rows"))
    names = tensor_shapes(CONFIG)
    assert (rows.layout, tiles.layout, again.layout) == ("rows", "tiles16", "rows")
    assert tiles.scheme == rows.scheme
    assert all(torch.equal(again.read(name), rows.read(name)) for name in rows.names)
    directly = Packed.open(convert(source, tmp_path / "directly", layout="tiles16", **options))
    assert all(torch.equal(tiles.read(name), directly.read(name)) for name in directly.names)
    tiled = [name for name in filter(is_matrix, names) if isinstance(tiles.matrix(name), TiledWeight)]
    assert len(tiled) == (1 if options == {"group_size": 20} else 8 if "head" in options else 9)
    assert same(tiles.matrix(DOWN), rows.matrix(DOWN))
    assert {entry.name for entry in (tmp_path / "again").iterdir()} == {
        PACKED_NAME,
        "config.json",
        "ice_text.model",
    }


@pytest.mark.parametrize("options", [{}, {"group_size": 32, "hqq": True}, {"head": "float16"}])
def test_tiles_for_graphics_cards(tmp_path: Path, options: dict[str, Any]) -> None:
    """Matrices of a whole number of tiles are in them, and all layouts turn into each other."""
    config = replace(CONFIG, hidden_size=128, inner_hidden_size=256)
    source = tmp_path / "source"
    source.mkdir()
    Published("safetensors", config, lambda name: random_values(name, config), torch.float16).write(source)
    rows = Packed.open(convert(source, tmp_path / "rows", layout="rows", **options))
    mma = Packed.open(convert(source, tmp_path / "mma", layout="mma16", **options))
    convert(tmp_path / "mma", tmp_path / "tiles", layout="tiles16")
    mma_again = Packed.open(convert(tmp_path / "tiles", tmp_path / "mma again", layout="mma16"))
    again = Packed.open(convert(tmp_path / "mma again", tmp_path / "again", layout="rows"))
    names = [name for name in filter(is_matrix, tensor_shapes(config)) if rows.scheme.of(name, 1)[0]]
    for name in names:
        assert isinstance(mma.matrix(name), MmaWeight)
        assert same(mma.matrix(name), rows.matrix(name))
    assert all(torch.equal(mma_again.read(name), mma.read(name)) for name in mma.names)
    assert all(torch.equal(again.read(name), rows.read(name)) for name in rows.names)
    _, weights = load_weights(mma.file)  # a CPU reads them too
    assert same(weights.blocks[1].dense_4h_to_h.weight, rows.matrix(DOWN))


def test_packed_floats_are_quantised_on_the_way(source: Path, target: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "floats", quantization="none")
    found = Packed.open(convert(tmp_path / "floats", target))
    assert same(found.matrix(DOWN), quantize_int4(random_values(DOWN), 64))


@pytest.mark.parametrize(
    ("library", "gpu", "layout"), [(True, False, "tiles16"), (False, False, "rows"), (True, True, "mma16")]
)
def test_layout_is_that_of_the_machine_unless_one_is_asked(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, library: bool, gpu: bool, layout: str
) -> None:
    def open_library() -> None:
        if not library:
            raise NoLibrary("the native library is not built")

    monkeypatch.setattr("model.convert.open_library", open_library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert Packed.open(convert(source, target)).layout == layout


def test_large_matrices_are_put_into_tiles_piece_by_piece(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Packed.open(convert(source, tmp_path / "whole", layout="tiles16"))
    monkeypatch.setattr("model.convert._AT_ONCE", 32)
    rows = Packed.open(convert(tmp_path / "whole", tmp_path / "rows", layout="rows"))
    pieces = Packed.open(convert(source, target, layout="tiles16"))
    for name in tensor_shapes(CONFIG):
        assert torch.equal(pieces.read(name), whole.read(name))
        if is_matrix(name):
            assert same(rows.matrix(name), whole.matrix(name))


def test_target_that_cannot_be_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelError, match="cannot be written") as caught:
        convert(source, tmp_path / "taken")
    assert caught.value.file == tmp_path / "taken"


# -- cut off --------------------------------------------------------------------------------


@pytest.fixture
def eager_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_writer, "SYNC_EVERY", 1)


class Stopped(Exception):
    """Stands for whatever ends a conversion."""


def stop_after(count: int) -> Any:
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            raise Stopped

    return progress


@pytest.mark.usefixtures("eager_journal")
@pytest.mark.parametrize("count", [1, 10, 27])
def test_conversion_goes_on_where_it_was_cut_off(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with pytest.raises(Stopped):
        convert(source, target, progress=stop_after(count))
    assert not (target / PACKED_NAME).exists()
    reads: list[str] = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: reads.append(name) or read(self, name))
    seen: list[tuple[int, int]] = []
    file = convert(source, target, progress=lambda *place: seen.append(place))
    assert reads == list(tensor_shapes(CONFIG))[count:]
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert file.read_bytes() == convert(source, tmp_path / "whole").read_bytes()


@pytest.mark.usefixtures("eager_journal")
@pytest.mark.parametrize("change", ["options", "source"])
def test_other_options_or_weights_begin_anew(source: Path, target: Path, tmp_path: Path, change: str) -> None:
    with pytest.raises(Stopped):
        convert(source, target, progress=stop_after(10))
    options: dict[str, Any] = {"search": False} if change == "options" else {}
    if change == "source":
        weights = source / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-2:] = b"\0\0"
        weights.write_bytes(data)
    file = convert(source, target, **options)
    assert file.read_bytes() == convert(source, tmp_path / "whole", **options).read_bytes()


KILL = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from model import packed_writer
from model.convert import convert

source, target, file, wanted = map(Path, sys.argv[1:5])
whole = wanted.read_bytes()
torch.set_num_threads(1)  # a child of a process with threads may hang


def killing(call, left):
    def step(*args, **options):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return step


def convert_until(count):
    child = os.fork()
    if child == 0:
        packed_writer.SYNC_EVERY = int(sys.argv[5])
        left = itertools.count(count, -1)
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, killing(getattr(os, name), left))
        convert(source, target)
        os._exit(0)
    return os.waitpid(child, 0)[1]


for count in itertools.count():
    status = convert_until(count)
    assert not file.exists() or file.read_bytes() == whole, count
    if status == 0:
        break
    assert convert(source, target, force=True).read_bytes() == whole, count
    assert {entry.name for entry in target.iterdir()} == {file.name, "config.json", "ice_text.model"}
    file.unlink()
print(count)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("every", [12_000, pytest.param(1, marks=pytest.mark.long)])
def test_kill_leaves_no_file_or_the_whole_one(source: Path, target: Path, tmp_path: Path, every: int) -> None:
    """Killed before every single step that makes something durable or visible, and gone on with after it."""
    wanted = convert(source, tmp_path / "whole")
    command = [sys.executable, "-c", KILL, source, target, target / PACKED_NAME, wanted, str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path
from model.convert import convert

def most():  # in KiB; of this process alone, where ru_maxrss begins at what the parent had
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])

before = most()
convert(Path(sys.argv[1]), Path(sys.argv[2]), search=False, layout="tiles16")
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory is told by Linux only")
@pytest.mark.parametrize("form", ["safetensors", "fp16-shards"])
def test_memory_does_not_grow_with_the_checkpoint(form: PublishedForm, tmp_path: Path) -> None:
    """Of 200 MB, 60 of them embedding, never more than an embedding is in memory beside torch."""
    config = ChatGLMConfig.from_dict(
        {**CONFIG.to_dict(), "vocab_size": 60_000, "hidden_size": 512, "inner_hidden_size": 2048}
        | {"num_layers": 22, "num_attention_heads": 4, "bos_token_id": 59_990, "eos_token_id": 59_991}
    )
    (tmp_path / "source").mkdir()
    Published(form, config, lambda name: torch.ones(tensor_shapes(config)[name])).write(tmp_path / "source")
    source = Checkpoint.open(tmp_path / "source")
    embedding = 60_000 * 512 * 2
    assert sum(file.stat().st_size for file in source.files) > 3 * embedding
    command = [sys.executable, "-c", MEASURE, tmp_path / "source", tmp_path / "target"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 1.3 * embedding + 60e6


def test_packed_file_says_where_it_is_from(source: Path, target: Path) -> None:
    packed = Packed.open(convert(source, target, search=False))
    assert packed.metadata["form"] == "float"
    assert packed.metadata["source"] == Checkpoint.open(source).fingerprint()
    assert json.loads(packed.metadata["recipe"])["search"] is False
