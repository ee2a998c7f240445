"""How much of the weights is left after quantisation: the signal-to-noise ratio, kind by kind of matrix."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import Tensor

from model.checkpoint import Checkpoint, is_matrix
from model.packed import Packed
from model.quantize import dequantize
from model.sizes import Progress

_AT_ONCE = 1 << 22
"""Values that are compared at a time."""


def weight_snr(source: Checkpoint, packed: Packed, progress: Progress | None = None) -> dict[str, float]:
    """Decibels by the matrix's name in its block, over all layers; infinite where nothing was lost.

    source: the floats that were quantised. `progress` gets their bytes.
    """
    names = [name for name in source.names if is_matrix(name)]
    total = sum(math.prod(source.shape(name)) * source.dtype(name).itemsize for name in names)
    done = 0
    signal: defaultdict[str, float] = defaultdict(float)
    noise: defaultdict[str, float] = defaultdict(float)
    for name in names:
        kind = name.removesuffix(".weight").rpartition(".")[2]
        weight, packed_weight = source.read(name), packed.matrix(name)
        step = max(1, _AT_ONCE // weight.shape[1])
        for row in range(0, len(weight), step):
            floats = weight[row : row + step].float()
            if isinstance(packed_weight, Tensor):
                kept = packed_weight[row : row + step].float()
            else:
                kept = dequantize(packed_weight.rows(row, row + step))
            signal[kind] += _energy(floats)
            noise[kind] += _energy(kept - floats)
            done += floats.numel() * weight.itemsize
            if progress is not None:
                progress(done, total)
    return {kind: _decibels(signal[kind], noise[kind]) for kind in signal}


def _energy(values: Tensor) -> float:
    return float(values.square().sum())


def _decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if noise and signal else math.inf
