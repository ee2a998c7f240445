"""Random weights as ggml's libraries store them: matrices Q4_0, vectors float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

COLUMNS, BYTES = 32, 18
"""Columns that share a float16 scale, and bytes of them: 4.5 bits a weight."""
F32, Q4_0 = 0, 2
"""The numbers of these types."""
Write: TypeAlias = Callable[[BinaryIO], None]

_SCALE = 0.003
_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file, with its shape as torch has it."""

    name: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> int:
        """Q4_0 for a matrix, else F32."""
        return F32 if len(self.shape) == 1 else Q4_0

    @property
    def nbytes(self) -> int:
        """As stored."""
        return 4 * self.shape[0] if self.kind == F32 else prod(self.shape) // COLUMNS * BYTES

    def write(self, stream: BinaryIO, draws: np.random.Generator) -> None:
        """Any integers with one small scale; ones for LayerNorm's weights, else zeros."""
        for part in self._parts(draws):
            stream.write(part.data)

    def _parts(self, draws: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        if self.kind == F32:
            yield np.full(self.shape, float(self.name.endswith("norm.weight")), "<f4").view(np.uint8)
            return
        scale = np.array([_SCALE], "<f2").view(np.uint8)
        left = self.nbytes // BYTES
        while left:
            count = min(left, _AT_ONCE // BYTES)
            blocks = np.frombuffer(draws.bytes(count * BYTES), np.uint8).reshape(count, BYTES).copy()
            blocks[:, :2] = scale
            yield blocks.reshape(-1)
            left -= count


def write_whole(file: Path, write: Write) -> Path:
    """Let `write` fill a file, which is there whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as stream:
            write(stream)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def pad(stream: BinaryIO, alignment: int) -> None:
    """Go on at a multiple of `alignment`."""
    stream.write(b"\0" * (-stream.tell() % alignment))


def norm(name: str, hidden: int) -> Sequence[Entry]:
    """The two vectors of a LayerNorm."""
    return Entry(f"{name}.weight", (hidden,)), Entry(f"{name}.bias", (hidden,))


def linear(name: str, out: int, columns: int) -> Sequence[Entry]:
    """A matrix and its bias."""
    return Entry(f"{name}.weight", (out, columns)), Entry(f"{name}.bias", (out,))
