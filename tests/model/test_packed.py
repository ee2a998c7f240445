"""The packed file: written whole or not at all, gone on with later, mapped, and checked when opened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import mma_tiles, packed_writer
from model.config import PACKED_NAME, ChatGLMConfig, is_other_family
from model.mma_tiles import MmaWeight
from model.packed import Layout, Packed, Scheme, is_packed
from model.packed_writer import PackedWriter, Plan
from model.quantize import QuantizedWeight
from model.sizes import size_text
from model.tiles import TiledWeight, fits_shape
from model.types import ModelError

CONFIG = ChatGLMConfig(
    vocab_size=48,
    hidden_size=24,
    num_layers=1,
    num_attention_heads=2,
    inner_hidden_size=56,
    bos_token_id=44,
    eos_token_id=45,
    mask_token_id=40,
    gmask_token_id=41,
    pad_token_id=3,
)
QKV = "transformer.layers.0.attention.query_key_value.weight"
NORM = "transformer.final_layernorm.weight"


def half(_: str) -> torch.dtype:
    return torch.float16


def plan_of(scheme: Scheme, config: ChatGLMConfig = CONFIG, layout: Layout = "rows", **notes: str) -> Plan:
    return Plan.make(config, scheme, half, notes, layout)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    bounds = torch.iinfo(dtype)
    return torch.randint(bounds.min, bounds.max + 1, shape, generator=generator, dtype=dtype)


def tensors_of(plan: Plan) -> dict[str, Tensor]:
    specs = {name: spec for stored in plan.parameters.values() for name, spec in stored.items()}
    return {
        name: random_tensor(plan.dtypes[name], spec.shape, seed)
        for seed, (name, spec) in enumerate(specs.items())
    }


def write(file: Path, plan: Plan, stop_after: int | None = None) -> dict[str, Tensor]:
    """Write the whole file, or so many parameters and the torn beginning of another."""
    tensors = tensors_of(plan)
    with PackedWriter(file, plan) as writer:
        for count, (parameter, specs) in enumerate(plan.parameters.items()):
            if count == stop_after:
                name = next(iter(specs))
                writer.write(name, tensors[name][:1])
                return tensors
            if parameter not in writer.done:
                for name in specs:
                    writer.write(name, tensors[name])
                writer.complete(parameter)
        writer.finish()
    return tensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / PACKED_NAME


@pytest.fixture
def eager_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_writer, "SYNC_EVERY", 1)


# -- what comes back ------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([4, 8, None]),
    group_size=st.one_of(st.none(), st.integers(1, 70), st.sampled_from([32, 64])),
    zero=st.booleans(),
    head_bits=st.sampled_from([8, None]),
    inner=st.integers(1, 140),
    layout=st.sampled_from(["rows", "tiles16"]),
)
def test_any_scheme_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    bits: Any,
    group_size: int | None,
    zero: bool,
    head_bits: Any,
    inner: int,
    layout: Layout,
) -> None:
    """Also where no group divides the columns and their number is odd."""
    scheme = Scheme(bits, group_size, zero and bits is not None, head_bits)
    config = ChatGLMConfig.from_dict(CONFIG.to_dict() | {"inner_hidden_size": inner})
    file = tmp_path_factory.mktemp("packed") / "any.safetensors"
    tensors = write(file, plan_of(scheme, config, layout))
    packed = Packed.open(file)
    assert packed.config == config
    assert packed.scheme == scheme
    assert packed.layout == layout
    assert set(packed.names) == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(packed.read(name), tensor), name
    name = "transformer.layers.0.mlp.dense_4h_to_h.weight"
    matrix = packed.matrix(name)
    if bits is None:
        assert isinstance(matrix, Tensor)
        assert torch.equal(matrix, tensors[name])
    else:
        tiled, groups = (
            layout == "tiles16" and fits_shape(bits, group_size or inner, inner),
            matrix.scale.shape,
        )
        assert isinstance(matrix, TiledWeight if tiled else QuantizedWeight)
        assert (matrix.bits, matrix.in_features, matrix.group_size) == (bits, inner, group_size or inner)
        assert (matrix.out_features, groups[1]) == (24, -(-inner // (group_size or inner)))
        assert torch.equal(matrix.packed, tensors[name])
        assert torch.equal(matrix.scale, tensors[f"{name}_scale"])
        assert (matrix.zero is not None) == scheme.zero


def test_embedding_has_one_scale_per_row(file: Path) -> None:
    tensors = write(file, plan_of(Scheme()))
    matrix = Packed.open(file).matrix("transformer.word_embeddings.weight")
    assert isinstance(matrix, QuantizedWeight)
    assert (matrix.bits, matrix.group_size, matrix.zero) == (8, 24, None)
    assert torch.equal(matrix.integers(), tensors["transformer.word_embeddings.weight"])


def test_rows_are_written_in_pieces(file: Path) -> None:
    plan = plan_of(Scheme())
    tensors = tensors_of(plan)
    with PackedWriter(file, plan) as writer:
        for parameter, specs in plan.parameters.items():
            for name in specs:
                for row in (5, 0):  # the order does not matter
                    writer.write(name, tensors[name][row : row + 5 if row == 0 else None], row)
            writer.complete(parameter)
        writer.finish()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(file).items())


def test_other_readers_see_a_plain_safetensors_file(file: Path) -> None:
    tensors = write(file, plan_of(Scheme(), note="said"))
    found = load_file(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["note"] == "said"
    assert json.loads(metadata["config"])["inner_hidden_size"] == 56


def test_tensors_are_aligned_where_sizes_allow(file: Path) -> None:
    config = ChatGLMConfig.from_dict(CONFIG.to_dict() | {"hidden_size": 64, "inner_hidden_size": 128})
    write(file, plan_of(Scheme(), config))
    packed = Packed.open(file)
    for name in packed.names:
        tensor = packed.read(name)
        if tensor.nbytes % 64 == 0:
            assert tensor.data_ptr() % 64 == 0, name


def test_tiles_are_aligned_whatever_the_shape(file: Path) -> None:
    config = ChatGLMConfig.from_dict(CONFIG.to_dict() | {"hidden_size": 40, "inner_hidden_size": 77})
    plan = plan_of(Scheme(), config, "tiles16")
    write(file, plan)
    packed = Packed.open(file)
    matrices = [packed.matrix(name) for name in plan.parameters if f"{name}_scale" in packed.names]
    assert len(matrices) == 5
    for matrix in matrices:
        assert isinstance(matrix, TiledWeight)
        assert matrix.packed.data_ptr() % 64 == 0


def test_matrices_with_wide_scales_stay_rows_beside_tiles(file: Path) -> None:
    def wide(name: str) -> torch.dtype:
        return torch.float32 if name.startswith(QKV) else torch.float16

    write(file, Plan.make(CONFIG, Scheme(), wide, {}, "tiles16"))
    packed = Packed.open(file)
    assert isinstance(packed.matrix(QKV), QuantizedWeight)
    assert isinstance(packed.matrix(QKV.replace("query_key_value", "dense")), TiledWeight)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 32, 64, 96])
def test_tiles_for_graphics_cards_come_back_where_they_fit(
    file: Path, bits: Any, group_size: int | None
) -> None:
    """INT8 with groups stays in rows, and INT4 with groups that tiles would straddle."""
    config = ChatGLMConfig.from_dict(CONFIG.to_dict() | {"hidden_size": 128, "inner_hidden_size": 384})
    tensors = write(file, plan_of(Scheme(bits, group_size), config, "mma16"))
    packed = Packed.open(file)
    for end, out, columns in (("dense_h_to_4h", 384, 128), ("dense_4h_to_h", 128, 384)):
        name = f"transformer.layers.0.mlp.{end}.weight"
        matrix = packed.matrix(name)
        fits = mma_tiles.fits_shape(bits, group_size or columns, out, columns)
        assert fits == (group_size is None or (bits == 4 and columns % group_size == 0 and group_size != 96))
        assert isinstance(matrix, MmaWeight if fits else QuantizedWeight)
        assert (matrix.bits, matrix.out_features, matrix.in_features) == (bits, out, columns)
        assert torch.equal(matrix.packed, tensors[name])
        assert torch.equal(matrix.scale, tensors[f"{name}_scale"])
    assert isinstance(packed.matrix("transformer.word_embeddings.weight"), MmaWeight)


def test_tiles_of_another_shape_are_named(file: Path) -> None:
    write(file, plan_of(Scheme(), layout="tiles16"))
    rewritten(file, None, **{QKV: torch.zeros(72, 12, dtype=torch.uint8)})
    with pytest.raises(ModelError, match=r"uint8 \[72, 12\], not uint8 \[5, 1, 512\]") as caught:
        Packed.open(file)
    assert caught.value.tensor == QKV


def test_tensors_are_views_of_the_file(file: Path) -> None:
    """Nothing is copied: they lie in the mapping, and outlive the reader and the file's name."""
    tensors = write(file, plan_of(Scheme()))
    packed = Packed.open(file)
    read = {name: packed.read(name) for name in packed.names}
    maps = Path("/proc/self/maps")
    if maps.exists():
        spans = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(file) in line]
        for tensor in read.values():
            assert any(int(begin, 16) <= tensor.data_ptr() < int(end, 16) for begin, end in spans)
    del packed
    file.unlink()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_folder_opens_as_its_file(file: Path) -> None:
    write(file, plan_of(Scheme()))
    assert Packed.open(file.parent).file == file


def test_folder_opens_as_its_only_safetensors_of_any_name(file: Path) -> None:
    write(file, plan_of(Scheme()))
    renamed = file.rename(file.with_name("mine.safetensors"))
    assert Packed.open(file.parent).file == renamed
    assert not is_other_family(file.parent)
    save_file({"a": torch.zeros(1)}, file.with_name("other.safetensors"))
    assert not is_packed(file.parent)


def test_packed_is_told_from_other_files(file: Path, tmp_path: Path) -> None:
    assert not is_packed(tmp_path)
    write(file, plan_of(Scheme()))
    renamed = tmp_path / "mine.safetensors"
    os.link(file, renamed)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    (tmp_path / "text.bin").write_text("no tensors")
    assert is_packed(tmp_path)
    assert is_packed(file)
    assert is_packed(renamed)
    assert not is_packed(other)
    assert not is_packed(tmp_path / "text.bin")
    assert not is_packed(tmp_path / "missing")


# -- writing --------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager_journal")
def test_next_run_goes_on_after_the_last_complete_parameter(file: Path) -> None:
    plan = plan_of(Scheme())
    write(file, plan, stop_after=7)
    assert not file.exists()
    with PackedWriter(file, plan) as writer:
        assert writer.done == set(list(plan.parameters)[:7])
    tensors = write(file, plan)
    assert all(torch.equal(Packed.open(file).read(name), tensor) for name, tensor in tensors.items())
    assert [entry.name for entry in file.parent.iterdir()] == [PACKED_NAME]


@pytest.mark.usefixtures("eager_journal")
@pytest.mark.parametrize("spoil", ["options", "source", "journal", "size", "partial"])
def test_next_run_begins_anew_where_it_cannot_trust(file: Path, spoil: str) -> None:
    plan = plan_of(Scheme(), source="a")
    write(file, plan, stop_after=7)
    partial, journal = (file.with_name(file.name + end) for end in (".partial", ".partial.json"))
    if spoil == "options":
        plan = plan_of(Scheme(group_size=32), source="a")
    elif spoil == "source":
        plan = plan_of(Scheme(), source="b")
    elif spoil == "journal":
        journal.write_text("{")
    elif spoil == "size":
        os.truncate(partial, 100)
    else:
        partial.unlink()
    with PackedWriter(file, plan) as writer:
        assert writer.done == set()
        assert not journal.exists()
    tensors = write(file, plan)
    assert all(torch.equal(Packed.open(file).read(name), tensor) for name, tensor in tensors.items())


def test_two_writers_exclude_each_other(file: Path) -> None:
    pytest.importorskip("fcntl")
    with PackedWriter(file, plan_of(Scheme())), pytest.raises(ModelError, match="another process"):
        PackedWriter(file, plan_of(Scheme()))


def test_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / PACKED_NAME
    with pytest.raises(ModelError, match="cannot be written") as caught:
        PackedWriter(file, plan_of(Scheme()))
    assert caught.value.file == file


def test_incomplete_file_never_gets_its_name(file: Path) -> None:
    with PackedWriter(file, plan_of(Scheme())) as writer, pytest.raises(ValueError, match="not written"):
        writer.finish()
    assert not file.exists()


def test_full_disk_is_refused_before_anything_is_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    plan = plan_of(Scheme())
    with pytest.raises(ModelError) as caught:
        PackedWriter(file, plan)
    assert caught.value.file == file
    assert size_text(plan.size) in caught.value.problem
    assert list(file.parent.iterdir()) == []


def test_disk_that_fills_up_meanwhile_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems find out only when the data go to the disk."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = plan_of(Scheme())
    with PackedWriter(file, plan) as writer:
        for parameter in plan.parameters:
            writer.complete(parameter)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ModelError, match="disk is full") as caught:
            writer.finish()
    assert caught.value.file == file


def test_file_over_the_limit_of_the_system_is_named(file: Path) -> None:
    resource = pytest.importorskip("resource")
    plan = plan_of(Scheme())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (plan.size // 2, limits[1]))
    try:
        with pytest.raises(ModelError, match="cannot be written") as caught:
            PackedWriter(file, plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.file == file


# -- bad files ------------------------------------------------------------------------------


def rewritten(file: Path, metadata: dict[str, str | None] | None = None, **tensors: Tensor | None) -> None:
    """Change metadata and tensors of a packed file; None removes."""
    with safe_open(file, "pt") as opened:
        kept = opened.metadata() | (metadata or {})
    save_file(
        {name: tensor for name, tensor in (load_file(file) | tensors).items() if tensor is not None},
        file,
        {name: text for name, text in kept.items() if text is not None},
    )


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_file(file: Path, keep: int) -> None:
    write(file, plan_of(Scheme()))
    os.truncate(file, keep if keep >= 0 else file.stat().st_size - 1)
    with pytest.raises(ModelError, match="truncated or damaged") as caught:
        Packed.open(file)
    assert caught.value.file == file
    assert "convert" in str(caught.value.remedy)


def test_missing_file(file: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        Packed.open(file)


def test_git_lfs_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ModelError, match="LFS"):
        Packed.open(file)


def test_foreign_file(file: Path) -> None:
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="no packed file"):
        Packed.open(file)


@pytest.mark.parametrize("change", [{"version": "2"}, {"layout": "other"}, {"version": None}])
def test_newer_file(file: Path, change: dict[str, str | None]) -> None:
    write(file, plan_of(Scheme()))
    rewritten(file, change)
    with pytest.raises(ModelError, match="does not know") as caught:
        Packed.open(file)
    assert "update glmbot" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "change",
    [
        {"config": "{"},
        {"config": "[]"},
        {"config": "[" * 100_000},
        {"scheme": "[" * 100_000},
        {"config": None},
        {"scheme": '{"bits": 3}'},
        {"scheme": '{"bytes": 4}'},
        {"scheme": '{"group_size": 0}'},
        {"scheme": '{"group_size": "64"}'},
        {"scheme": "[]"},
    ],
)
def test_damaged_metadata(file: Path, change: dict[str, str | None]) -> None:
    write(file, plan_of(Scheme()))
    rewritten(file, change)
    with pytest.raises(ModelError, match="damaged metadata"):
        Packed.open(file)


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        (QKV, None, "missing"),
        (QKV + "_scale", None, "missing"),
        (NORM, None, "missing"),
        (QKV, torch.zeros(72, 24, dtype=torch.uint8), "not uint8"),
        (QKV, torch.zeros(72, 12, dtype=torch.int8), "not uint8"),
        (QKV + "_scale", torch.zeros(72, 2), "not float"),
        (NORM, torch.zeros(24, dtype=torch.int8), "not float"),
        (NORM, torch.zeros(25), "not float"),
    ],
)
def test_wrong_tensor_is_named(file: Path, name: str, tensor: Tensor | None, problem: str) -> None:
    write(file, plan_of(Scheme()))
    rewritten(file, None, **{name: tensor})
    with pytest.raises(ModelError, match=problem) as caught:
        Packed.open(file)
    assert caught.value.tensor == name


def test_header_may_be_anything(file: Path) -> None:
    """Bytes that only look like a header neither crash the reader nor pass."""
    for text in (b"", b"[]", b"{" + b'"a":[' * 50_000, b'{"a":1}', b"{" + b"x" * 40, b'{"__metadata__":[1]}'):
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        renamed = file.with_name("other.safetensors")
        renamed.write_bytes(file.read_bytes())
        assert not is_packed(renamed)
        with pytest.raises(ModelError):
            Packed.open(file)
