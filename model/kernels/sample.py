"""What cuda/sample.cu must be told of each row of logits."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from model.sampling import TOP_K
from model.types import GenerationParams

THREADS = 1024
"""Of a block; there is one for each row."""
SHARED = 48 << 10
"""Bytes of shared memory of a block."""
ROW = np.dtype(
    [
        ("temperature", np.float32),  # 0 or below: greedy
        ("top_k", np.int32),  # 0 or below: off
        ("dropped", np.float32),  # 1 - top_p, rounded as on the CPU; 0 or below: off
        ("penalty", np.float32),  # 1: off
        ("drawn", np.uint64),  # 2^64 times a number from [0, 1)
        ("active", np.int32),  # 0: the row only pads the batch, and its token is 0
        ("slot", np.int32),  # row of the bits of seen tokens; below 0: none
    ]
)
"""A row's parameters: 8 words of 32 bits. All zeros is a row that only pads the batch."""
Row: TypeAlias = tuple[float, int, float, float, int, int, int]

_LARGEST = 3e38
_MANY = 2**31 - 1


def parameters(params: GenerationParams, drawn: float, slot: int = -1) -> Row:
    """What an element of an array of ROW is set to: rows[i] = parameters(...).

    drawn: the next number of the row's sequence (`Sampler.peek`).
    """
    top_k = TOP_K if params.top_k is None else params.top_k
    return (
        min(max(params.temperature, 0.0), _LARGEST),
        min(top_k, _MANY) if top_k > 0 else 0,
        min(max(1 - params.top_p, 0.0), 1.0),
        min(params.repetition_penalty, _LARGEST),
        int(drawn * 2.0**64),
        1,
        slot,
    )
