"""Quantised matrices in the order in which a graphics card's matrix instruction takes them.

A tile of 16 rows and 64 columns is four left operands of 16 x 16. A warp reads a tile as it lies, each of its
32 lanes 16 bytes with INT4 and twice 16 with INT8, and has its own numbers: lane 4 (r % 8) + (c % 8) // 2
those of row r and column c of each operand.

INT4: a lane's word w is for the operand of columns 16w ..; in it row r, column c is the nibble
r // 8 + 2 (c // 8) + 4 (c % 2), as value + 8. INT8: a half of 32 columns after the other; in it words 2s
and 2s + 1 of a lane are for its operand s, one for c < 8, one for the others, each with the bytes
(r < 8, c even), (r < 8, c odd), (r >= 8, c even), (r >= 8, c odd), as value + 128.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from model.quantize import QuantizedWeight

ROWS = 16
COLUMNS = 64
"""Of a tile."""
_STEP = 128
"""Columns that kernels read at a time (cuda/linear.cuh)."""
_AT_ONCE = 1 << 24
"""Bytes that are reordered at a time, to bound the memory that this takes."""


@dataclass(frozen=True, slots=True)
class MmaWeight:
    """A matrix [out, in] of integers with scales, in such tiles.

    packed: uint8 [out / 16, in / 64, 128 * bits]; scale: float16 [groups, out], groups = ceil(in / group
    size); zero: the same or None. The meaning of the integers is that of `QuantizedWeight`.
    """

    bits: Literal[4, 8]
    group_size: int
    out_features: int
    in_features: int
    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def rows(self, start: int, end: int) -> QuantizedWeight:
        """The rows [start, end) in rows."""
        first, last = start // ROWS, -(-end // ROWS)
        part = slice(first * ROWS, last * ROWS)
        tiles = replace(
            self,
            out_features=min(self.out_features, last * ROWS) - first * ROWS,
            packed=self.packed[first:last],
            scale=self.scale[:, part],
            zero=None if self.zero is None else self.zero[:, part],
        )
        return to_rows(tiles).rows(start - first * ROWS, end - first * ROWS)

    def to(self, device: torch.device) -> MmaWeight:
        """The same on a device, sharing memory where it is there already."""
        zero = None if self.zero is None else self.zero.to(device)
        return replace(self, packed=self.packed.to(device), scale=self.scale.to(device), zero=zero)


def fits_shape(bits: Literal[4, 8], group_size: int, out_features: int, in_features: int) -> bool:
    """Whether tiles can hold the matrix and never straddle groups; INT8 has one scale a row."""
    if out_features % ROWS or in_features % _STEP:
        return False
    if group_size >= in_features:
        return True
    return bits == 4 and (group_size == 32 or group_size % COLUMNS == 0) and in_features % group_size == 0


def fits(weight: QuantizedWeight) -> bool:
    """Whether a matrix can be put into tiles without loss: also its scales must be exact in float16."""
    if weight.bits == 8 and weight.zero is not None:
        return False
    return fits_shape(weight.bits, weight.group_size, weight.out_features, weight.in_features) and all(
        tensor.dtype == torch.float16 or torch.equal(tensor.half().to(tensor.dtype), tensor)
        for tensor in (weight.scale, weight.zero)
        if tensor is not None
    )


def shapes(
    bits: Literal[4, 8], group_size: int, out_features: int, in_features: int
) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The shapes of `packed` and of `scale`."""
    packed = (out_features // ROWS, in_features // COLUMNS, ROWS * COLUMNS * bits // 8)
    return packed, (-(-in_features // group_size), out_features)


def to_mma(weight: QuantizedWeight) -> MmaWeight:
    """The same matrix in tiles, on its device; it must fit."""
    if not fits(weight):
        raise ValueError(f"groups of {weight.group_size} with {weight.scale.dtype} scales have no MMA tiles")
    bits, out, columns = weight.bits, weight.out_features, weight.in_features
    shape, _ = shapes(bits, weight.group_size, out, columns)
    packed = torch.empty(shape, dtype=torch.uint8, device=weight.packed.device)
    reorder = _int4_tiles if bits == 4 else _int8_tiles
    step = _step(weight.packed[:1].nbytes)
    for start in range(0, out, step):
        part = weight.packed[start : start + step].view(torch.uint8)
        packed[start // ROWS : (start + step) // ROWS] = reorder(part)

    def turned(values: Tensor) -> Tensor:
        return values.half().t().contiguous()

    zero = None if weight.zero is None else turned(weight.zero)
    return MmaWeight(bits, weight.group_size, out, columns, packed, turned(weight.scale), zero)


def to_rows(weight: MmaWeight) -> QuantizedWeight:
    """The same matrix row after row, to the bit what it was made from (its scales in float16)."""
    bits, out, columns = weight.bits, weight.out_features, weight.in_features
    dtype = torch.uint8 if bits == 4 else torch.int8
    packed = torch.empty(out, columns * bits // 8, dtype=dtype, device=weight.packed.device)
    reorder = _int4_rows if bits == 4 else _int8_rows
    step = _step(packed[:1].nbytes)
    for start in range(0, out, step):
        part = reorder(weight.packed[start // ROWS : (start + step) // ROWS])
        packed[start : start + step] = part.view(dtype)

    def turned(values: Tensor) -> Tensor:
        return values.t().contiguous()

    zero = None if weight.zero is None else turned(weight.zero)
    return QuantizedWeight(bits, weight.group_size, columns, packed, turned(weight.scale), zero)


def _step(row_bytes: int) -> int:
    """Rows that are reordered at a time: whole tiles."""
    return max(1, _AT_ONCE // (ROWS * row_bytes)) * ROWS


def _int4_tiles(rows: Tensor) -> Tensor:
    """From two columns a byte, the even one in the low nibble."""
    # [tiles, upper row, r % 8, tiles in a row, word, c >= 8, (c % 8) // 2]
    pairs = rows.view(len(rows) // ROWS, 2, 8, -1, 4, 2, 4)
    first, second = pairs.unbind(1)
    even, odd = (first & 15) | (second << 4), (first >> 4) | (second & 0xF0)
    # [tiles, r % 8, tiles in a row, word, c >= 8, (c % 8) // 2, c % 2] to lanes, words and their bytes
    both = torch.stack((even, odd), dim=-1).permute(0, 2, 1, 5, 3, 6, 4)
    return both.reshape(len(both), -1, 512)


def _int4_rows(tiles: Tensor) -> Tensor:
    """The inverse of `_int4_tiles`."""
    both = tiles.view(*tiles.shape[:2], 8, 4, 4, 2, 2).permute(0, 2, 1, 4, 6, 3, 5)
    even, odd = both.unbind(-1)
    first, second = (even & 15) | (odd << 4), (even >> 4) | (odd & 0xF0)
    return torch.stack((first, second), dim=1).reshape(len(tiles) * ROWS, -1)


def _int8_tiles(rows: Tensor) -> Tensor:
    """From one column a byte, in two's complement."""
    codes = (rows ^ 0x80).view(len(rows) // ROWS, 2, 8, -1, 2, 2, 2, 4, 2)
    # [tiles, upper row, r % 8, tiles in a row, half, operand, c >= 8, (c % 8) // 2, c % 2]
    return codes.permute(0, 3, 4, 2, 7, 5, 6, 1, 8).reshape(len(codes), -1, 1024)


def _int8_rows(tiles: Tensor) -> Tensor:
    """The inverse of `_int8_tiles`."""
    codes = tiles.view(*tiles.shape[:2], 2, 8, 4, 2, 2, 2, 2).permute(0, 7, 3, 1, 2, 5, 6, 4, 8)
    return codes.reshape(len(tiles) * ROWS, -1) ^ 0x80
