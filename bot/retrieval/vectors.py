"""Unit vectors in a quarter of their size, as eight-bit codes; cosines move by about 0.0005."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]
Positions = NDArray[np.int64]

_SMALLEST = np.float32(1e-12)


def quantise(vectors: Floats) -> tuple[Codes, Floats]:
    """Codes [n, dim] and scales [n] of rows; a scale is never 0, which stands for a row not encoded yet."""
    scales = np.maximum(np.abs(vectors).max(axis=1) / np.float32(127), _SMALLEST)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


class Vectors:
    """Rows [n, dim] that fill up while an index is built; readers may look at any time."""

    def __init__(self, count: int, dim: int) -> None:
        self.codes: Codes = np.zeros((count, dim), np.int8)
        self.scales: Floats = np.zeros(count, np.float32)

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def ready(self) -> NDArray[np.bool_]:
        """Which rows are encoded [n]."""
        return self.scales > 0

    def put(self, rows: Positions | slice, codes: Codes, scales: Floats) -> None:
        """Set rows; the scales come last, since they make rows `ready`."""
        self.codes[rows] = codes
        self.scales[rows] = scales

    def get(self, rows: Positions | slice) -> Floats:
        """Rows as floats [len(rows), dim]; zeros where they are not encoded yet."""
        return self.codes[rows].astype(np.float32) * self.scales[rows][:, None]

    def dot(self, rows: Positions, vector: Floats) -> Floats:
        """Products of rows with a vector [len(rows)]."""
        products: Floats = (self.codes[rows].astype(np.float32) @ vector) * self.scales[rows]
        return products
