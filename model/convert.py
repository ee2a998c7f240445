"""Published checkpoints to packed files, a parameter at a time; what was cut off goes on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, is_matrix
from model.config import CONFIG_NAME, PACKED_NAME
from model.loading import Head, Reader, Recipe
from model.packed import Packed, is_packed
from model.packed_writer import PackedWriter, Plan, write_atomically
from model.sizes import Progress
from model.tensor_file import weight_files
from model.tokenizer import Tokenizer, find_tokenizer
from model.types import ModelError, Quantization


def convert(
    source: Path,
    target: Path,
    *,
    quantization: Quantization = "int4",
    group_size: int = 64,
    search: bool = True,
    hqq: bool = False,
    head: Head = "auto",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Write a checkpoint in any published form as a packed file; returns the file.

    `target` is a file NAME.safetensors or a folder for glmbot.safetensors; config.json and the tokenizer's
    file are put beside it. A conversion that was cut off goes on where it was. dtype: of matrices that stay
    floats, None as they are stored; biases and LayerNorms always keep theirs. Raises ModelError, also for a
    tokenizer that is damaged or another's, and without `force` where something would be replaced.
    """
    checkpoint = open_published(source)
    file = target if target.suffix == ".safetensors" else target / PACKED_NAME
    beside = _companions(checkpoint, file.parent)
    _refuse_overwriting(checkpoint, file, beside, force)
    recipe = Recipe(quantization, group_size, search, hqq, head)
    reader = Reader(checkpoint, recipe, dtype)
    notes = {
        "source": checkpoint.fingerprint(),
        "form": checkpoint.form,
        "recipe": json.dumps(asdict(recipe)),
    }
    plan = Plan.make(checkpoint.config, reader.scheme, reader.float_dtype, notes)
    _place({}, file.parent)
    with PackedWriter(file, plan) as writer:
        _write_parameters(reader, plan, writer, progress)
        _place(beside, file.parent)
        writer.finish()
    return file


def open_published(source: Path) -> Checkpoint:
    """The published weights of a folder, also where a packed file lies beside them. Raises ModelError."""
    packed = [file for file in weight_files(source) if is_packed(file)] if source.exists() else []
    if packed:
        Packed.open(packed[0])  # a damaged one, or a pointer to it, is told as that
        raise ModelError("is packed already", file=source, remedy="name the published weights")
    return Checkpoint.open(source)


def _write_parameters(reader: Reader, plan: Plan, writer: PackedWriter, progress: Progress | None) -> None:
    total = sum(map(plan.nbytes, plan.parameters))
    done = sum(map(plan.nbytes, writer.done))
    for name in plan.parameters:
        if name not in writer.done:
            _write_parameter(reader, plan, writer, name)
            done += plan.nbytes(name)
        if progress is not None:
            progress(done, total)


def _write_parameter(reader: Reader, plan: Plan, writer: PackedWriter, name: str) -> None:
    values = reader.matrix(name) if is_matrix(name) else reader.vector(name)
    if isinstance(values, Tensor):
        tensors = {name: values}
    else:
        tensors = {name: values.packed, f"{name}_scale": values.scale}
        if values.zero is not None:
            tensors[f"{name}_zero"] = values.zero
    for stored, tensor in tensors.items():
        writer.write(stored, tensor.to(plan.dtypes[stored]))
    writer.complete(name)


def _companions(checkpoint: Checkpoint, folder: Path) -> dict[str, bytes]:
    """What makes the target's folder complete; nothing if that is the source's own.

    Raises ModelError for a tokenizer that would not load: better before hours of work than after them.
    """
    tokenizer = find_tokenizer(checkpoint.folder)
    if tokenizer is not None:
        Tokenizer(checkpoint.folder).check(checkpoint.config)
    if folder.exists() and folder.samefile(checkpoint.folder):
        return {}
    files = {CONFIG_NAME: json.dumps(checkpoint.config.to_dict(), indent=2).encode() + b"\n"}
    return files if tokenizer is None else files | {tokenizer.name: tokenizer.read_bytes()}


def _place(files: dict[str, bytes], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        problem = f"cannot be written: {error}"
        raise ModelError(problem, file=folder, remedy="choose another target") from error


def _refuse_overwriting(checkpoint: Checkpoint, file: Path, beside: dict[str, bytes], force: bool) -> None:
    if file.exists() and any(file.samefile(other) for other in checkpoint.files):
        raise ModelError("is the source itself", file=file, remedy="choose another target")
    if force:
        return
    others = [file.parent / name for name, data in beside.items() if _differs(file.parent / name, data)]
    for other in (file, *others):
        if other.exists():
            raise ModelError("is there already", file=other, remedy="choose another target, or force it")


def _differs(file: Path, data: bytes) -> bool:
    return not file.is_file() or file.read_bytes() != data
