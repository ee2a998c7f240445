"""Published checkpoints to packed files, and these to another layout; what was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, is_matrix
from model.config import CONFIG_NAME, PACKED_NAME
from model.kernels.library import NoLibrary, open_library
from model.loading import Head, Reader, Recipe
from model.mma_tiles import MmaWeight, to_mma
from model.packed import Layout, Packed, is_packed
from model.packed_writer import PackedWriter, Plan, write_atomically
from model.quantize import QuantizedWeight
from model.sizes import Progress
from model.tensor_file import weight_files
from model.tiles import TILE, TiledWeight, to_tiles
from model.tokenizer import Tokenizer, find_tokenizer
from model.types import ModelError, Quantization

Integers: TypeAlias = QuantizedWeight | TiledWeight | MmaWeight
_ORDERS: dict[Layout, type[Integers]] = {
    "rows": QuantizedWeight,
    "tiles16": TiledWeight,
    "mma16": MmaWeight,
}
_CPU = torch.device("cpu")
_AT_ONCE = 4096
"""Rows that are put into another order at a time."""


def convert(
    source: Path,
    target: Path,
    *,
    quantization: Quantization = "int4",
    group_size: int = 64,
    search: bool = True,
    hqq: bool = False,
    head: Head = "auto",
    layout: Layout | Literal["auto"] = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Write a checkpoint in any published form, or a packed file, as a packed file; returns the new one.

    `target` is a file NAME.safetensors or a folder for glmbot.safetensors; config.json and the tokenizer's
    file are put beside it. A conversion that was cut off goes on where it was. layout: "auto" is what this
    machine reads fastest. dtype: of matrices that stay floats, None as they are stored; biases and LayerNorms
    always keep theirs. device: where matrices are quantised; None is the CPU. Raises ModelError, also for a
    tokenizer that is damaged or another's, without `force` where something would be replaced, and for a
    packed file that would stay as it is.
    """
    opened = _open(source)
    file = target if target.suffix == ".safetensors" else target / PACKED_NAME
    beside = _companions(opened, file.parent)
    _refuse_overwriting(opened, file, beside, force)
    recipe = Recipe(quantization, group_size, search, hqq, head)
    reader = Reader(opened, recipe, dtype, device)
    layout = machine_layout() if layout == "auto" else layout
    if isinstance(opened, Packed) and (opened.scheme, opened.layout) == (reader.scheme, layout):
        problem = f"is packed already, with layout {layout}"
        raise ModelError(problem, file=source, remedy="name another layout, or the published weights")
    notes = {
        "source": opened.fingerprint(),
        "form": opened.form,
        "recipe": json.dumps(asdict(recipe)),
    }
    plan = Plan.make(opened.config, reader.scheme, reader.float_dtype, notes, layout)
    _place({}, file.parent)
    with PackedWriter(file, plan) as writer:
        _write_parameters(reader, plan, layout, writer, progress)
        _place(beside, file.parent)
        writer.finish()
    return file


def machine_layout() -> Layout:
    """What is read fastest here: tiles for the card, or for the CPU's native library, else rows."""
    if torch.cuda.is_available():
        return "mma16"
    if torch.backends.mps.is_available():
        return "rows"
    try:
        open_library()
    except NoLibrary:
        return "rows"
    return "tiles16"


def open_published(source: Path) -> Checkpoint:
    """The published weights of a folder, also where a packed file lies beside them. Raises ModelError."""
    opened = _open(source)
    if isinstance(opened, Packed):
        raise ModelError("is packed already", file=source, remedy="name the published weights")
    return opened


def _open(source: Path) -> Checkpoint | Packed:
    """Published weights rather than a packed file beside them."""
    packed = [file for file in weight_files(source) if is_packed(file)] if source.exists() else []
    return Packed.open(packed[0]) if packed else Checkpoint.open(source)


def _write_parameters(
    reader: Reader, plan: Plan, layout: Layout, writer: PackedWriter, progress: Progress | None
) -> None:
    total = sum(map(plan.nbytes, plan.parameters))
    done = sum(map(plan.nbytes, writer.done))
    for name in plan.parameters:
        if name not in writer.done:
            _write_parameter(reader, plan, layout, writer, name)
            done += plan.nbytes(name)
        if progress is not None:
            progress(done, total)


def _write_parameter(reader: Reader, plan: Plan, layout: Layout, writer: PackedWriter, name: str) -> None:
    values = reader.matrix(name).to(_CPU) if is_matrix(name) else reader.vector(name)
    if isinstance(values, Tensor):
        writer.write(name, values.to(plan.dtypes[name]))
    else:
        tiled = len(plan.parameters[name][name].shape) == 3
        for row, part in _ordered(values, layout if tiled else "rows"):
            for end, tensor in (("", part.packed), ("_scale", part.scale), ("_zero", part.zero)):
                if tensor is not None:
                    writer.write(name + end, tensor.to(plan.dtypes[name + end]), row)
    writer.complete(name)
    if isinstance(reader.source, Packed):
        reader.source.forget(name)


def _ordered(matrix: Integers, layout: Layout) -> Iterator[tuple[int, Integers]]:
    """The matrix in an order, in parts; each with the number of its first tile or row."""
    if isinstance(matrix, _ORDERS[layout]):
        yield 0, matrix
        return
    if layout == "mma16":  # whose scales are not by rows, so it cannot be written in parts
        rows = matrix if isinstance(matrix, QuantizedWeight) else matrix.rows(0, matrix.out_features)
        yield 0, to_mma(rows)
        return
    for start in range(0, matrix.out_features, _AT_ONCE):
        rows = matrix.rows(start, start + _AT_ONCE)
        yield (start // TILE, to_tiles(rows)) if layout == "tiles16" else (start, rows)


def _companions(source: Checkpoint | Packed, folder: Path) -> dict[str, bytes]:
    """What makes the target's folder complete; nothing if that is the source's own.

    Raises ModelError for a tokenizer that would not load: better before hours of work than after them.
    """
    tokenizer = find_tokenizer(source.folder)
    if tokenizer is not None:
        Tokenizer(source.folder).check(source.config)
    if folder.exists() and folder.samefile(source.folder):
        return {}
    files = {CONFIG_NAME: json.dumps(source.config.to_dict(), indent=2).encode() + b"\n"}
    return files if tokenizer is None else files | {tokenizer.name: tokenizer.read_bytes()}


def _place(files: dict[str, bytes], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        problem = f"cannot be written: {error}"
        raise ModelError(problem, file=folder, remedy="choose another target") from error


def _refuse_overwriting(
    source: Checkpoint | Packed, file: Path, beside: dict[str, bytes], force: bool
) -> None:
    if file.exists() and any(file.samefile(other) for other in source.files):
        raise ModelError("is the source itself", file=file, remedy="choose another target")
    if force:
        return
    others = [file.parent / name for name, data in beside.items() if _differs(file.parent / name, data)]
    for other in (file, *others):
        if other.exists():
            raise ModelError("is there already", file=other, remedy="choose another target, or force it")


def _differs(file: Path, data: bytes) -> bool:
    return not file.is_file() or file.read_bytes() != data
