"""The vector space of an index: how far apart two texts are, as its own entries teach it.

Texts of one entry say the same thing, so the ways in which they differ carry no meaning there. Their pooled
covariance, shrunk towards a sphere, gives the metric (linear discriminant analysis): the index of a bank
learns that "my card" and "the card" are the same, from its own similar questions, without training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bot.retrieval.vectors import Floats, Positions, Vectors

SCAN_ALL = 4_096
"""Up to this many units every vector is compared; above, a projection picks candidates first."""
_COARSE_DIM = 64
_SAMPLE = 16_384
_BLOCK = 8_192
_PRIOR_ROWS = 600.0
"""How many differences between similar texts outweigh the assumption that all directions are alike."""
_PRIOR_SCATTER = 0.5
"""Squared length of a typical difference between a text and the mean of its entry."""


@dataclass(frozen=True, slots=True)
class Space:
    """A metric over unit rows [n, dim] and what makes searching in it fast; never changed once built.

    rows, infinite for rows yet to encode. `spreads` [e]: length of the sum of the mapped rows of entry e.
    rows, infinite for rows yet to encode. `spreads` [e]: length of the sum of the mapped rows of an entry.
    `full` holds the mapped rows of a small set, `coarse` a projection by `basis` of a large one.
    """

    warp: Floats | None
    norms: Floats
    spreads: Floats
    cohesion: float | None
    full: Floats | None
    basis: Floats | None
    coarse: Floats | None

    @classmethod
    def fit(cls, vectors: Vectors, starts: Positions, *, similar: bool) -> Space:
        """Learn from the rows that are `ready`; entry e owns rows starts[e]:starts[e+1].

        `similar`: whether the rows of an entry mean the same: those of a FAQ do, those of a passage do not.
        """
        count, dim = vectors.codes.shape
        ready = vectors.ready
        warp = _warp(vectors, ready, starts) if similar else None
        norms = np.full(count, np.inf, np.float32)
        spreads = np.empty(len(starts) - 1, np.float32)
        full = np.empty((count, dim), np.float32) if count <= SCAN_ALL else None
        basis = _basis(vectors, warp) if count > SCAN_ALL else None
        coarse = np.empty((count, _COARSE_DIM), np.float32) if basis is not None else None
        for first, last in _blocks(starts):
            rows = slice(int(starts[first]), int(starts[last]))
            mapped = _map(vectors.get(rows), warp)
            lengths = np.linalg.norm(mapped, axis=1)
            lengths[~ready[rows] | (lengths == 0)] = np.inf
            mapped /= lengths[:, None]
            norms[rows] = lengths
            spreads[first:last] = np.linalg.norm(
                np.add.reduceat(mapped, starts[first:last] - starts[first]), axis=1
            )
            if full is not None:
                full[rows] = mapped
            if coarse is not None and basis is not None:
                coarse[rows] = mapped @ basis
        cohesion = _cohesion(norms, spreads, starts) if similar else None
        return cls(warp, norms, np.maximum(spreads, 1e-3), cohesion, full, basis, coarse)

    def project(self, vector: Floats) -> Floats:
        """A query vector as a unit vector of this space."""
        mapped = _map(vector, self.warp)
        length = np.linalg.norm(mapped).astype(np.float32)
        return np.divide(mapped, length, out=np.zeros_like(mapped), where=length > 0)

    def similarities(self, mapped: Floats, vectors: Vectors, rows: Positions) -> Floats:
        """Cosines of a projected query with these rows, 0 for those that are not encoded yet."""
        scores: Floats
        if self.full is not None:
            scores = self.full @ mapped
            return scores if len(rows) == len(scores) else scores[rows]
        return vectors.dot(rows, _map(mapped, self.warp)) / self.norms[rows]

    def nearest(self, mapped: Floats, count: int) -> Positions:
        """About the `count` nearest rows of a large set, in no order."""
        if self.coarse is None or self.basis is None:
            return np.empty(0, np.int64)
        return top(self.coarse @ (mapped @ self.basis), count)


def top(scores: Floats, count: int) -> Positions:
    """Positions of the `count` highest scores, in no order."""
    if len(scores) <= count:
        return np.arange(len(scores), dtype=np.int64)
    return np.argpartition(scores, -count)[-count:].astype(np.int64)


def _map(vectors: Floats, warp: Floats | None) -> Floats:
    mapped: Floats = vectors.copy() if warp is None else vectors @ warp
    return mapped


def _blocks(starts: Positions) -> list[tuple[int, int]]:
    """Runs of whole entries of about _BLOCK rows, so that a large set needs no second copy."""
    cuts = np.searchsorted(starts, np.arange(_BLOCK, int(starts[-1]), _BLOCK)).tolist()
    edges = sorted({0, *cuts, len(starts) - 1})
    return list(pairwise(edges))


def _basis(vectors: Vectors, warp: Floats | None) -> Floats:
    """The directions [dim, _COARSE_DIM] in which the mapped rows differ most."""
    sample = _map(vectors.get(slice(None, None, max(1, len(vectors) // _SAMPLE))), warp)
    _, axes = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(axes[:, -_COARSE_DIM:])


def _cohesion(norms: Floats, spreads: Floats, starts: Positions) -> float | None:
    """Mean cosine between texts of one entry, from the squared length n + n(n-1)cos of their sum."""
    counts = np.add.reduceat(np.isfinite(norms), starts[:-1], dtype=np.int64)
    several = counts > 1
    if not several.any():
        return None
    sizes = counts[several]
    return float(((spreads[several] ** 2 - sizes) / (sizes * (sizes - 1))).mean())


def _warp(vectors: Vectors, ready: NDArray[np.bool_], starts: Positions) -> Floats | None:
    """Inverse square root of the shrunk covariance within entries; None where no entry has similar texts."""
    counts = np.diff(starts)
    known = np.logical_and.reduceat(ready, starts[:-1])
    entries = np.flatnonzero((counts > 1) & known)
    if not len(entries):
        return None
    entries = entries[:: -(-int(counts[entries].sum()) // _SAMPLE)]
    sizes = counts[entries]
    begins = np.cumsum(sizes) - sizes
    rows = np.repeat(starts[entries] - begins, sizes) + np.arange(int(sizes.sum()))
    sample = vectors.get(rows)
    means = np.add.reduceat(sample, begins) / sizes[:, None].astype(np.float32)
    sample -= np.repeat(means, sizes, axis=0)
    sample *= np.repeat(np.sqrt(sizes / (sizes - 1)), sizes)[:, None].astype(np.float32)
    dim = sample.shape[1]
    scatter = sample.T @ sample * (dim / _PRIOR_SCATTER) + _PRIOR_ROWS * np.eye(dim, dtype=np.float32)
    values, axes = np.linalg.eigh(scatter / np.float32(len(sample) + _PRIOR_ROWS))
    warp: Floats = ((axes / np.sqrt(values)) @ axes.T).astype(np.float32)
    return warp
