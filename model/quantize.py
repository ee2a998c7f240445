"""Weight-only quantisation of matrices to INT4 and INT8, and the published packing.

A quantised weight is (q - zero) * scale, one scale for `group_size` neighbouring columns of a row; without
`zero` it is symmetric, q * scale. A per-row scheme is a group as wide as the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OFFSET = 8
"""What is added to an INT4 value before it is stored: 0..15 stands for -8..7."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [out, in] of integers with scales.

    packed: bits 8: int8 [out, in]; bits 4: uint8 [out, ceil(in / 2)], value + 8, even column in the low nibble.
    scale: [out, groups], groups = ceil(in / group_size), float16 or float32; zero: the same shape or None.
    """

    bits: Literal[4, 8]
    group_size: int
    in_features: int
    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None

    @property
    def out_features(self) -> int:
        """Rows."""
        return self.packed.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero-points."""
        tensors = (self.packed, self.scale) if self.zero is None else (self.packed, self.scale, self.zero)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def rows(self, start: int, end: int) -> QuantizedWeight:
        """The rows [start, end), sharing memory."""
        zero = None if self.zero is None else self.zero[start:end]
        return QuantizedWeight(
            self.bits, self.group_size, self.in_features, self.packed[start:end], self.scale[start:end], zero
        )

    def integers(self) -> Tensor:
        """The integers, int8 [out, in]."""
        return self.packed if self.bits == 8 else unpack_int4(self.packed, self.in_features)


def pack_int4(values: Tensor) -> Tensor:
    """int8 [out, in] in -8..7 to uint8 [out, ceil(in / 2)]; an odd last column is padded with zero."""
    codes = (values + OFFSET).to(torch.uint8)
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1), value=OFFSET)
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """The inverse of `pack_int4`: int8 [out, in_features]."""
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)[:, :in_features]
    return codes.to(torch.int8) - OFFSET
