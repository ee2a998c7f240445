"""Quantised matrices in the order in which a CPU reads them: tiles of 16 rows, block after block of columns.

A kernel computes the 16 outputs of a tile at once. A cache line of 64 bytes holds four neighbouring columns
of each of its rows, what an integer dot-product instruction takes; with INT4 four more from the block's other
half, in the high nibbles. Lines, blocks and tiles follow one another, so that memory is read in one stream.

INT4, line j of a block: row r has the bytes 4r .. 4r + 3; byte t holds column 4j + t in its low nibble and
column half a block + 4j + t in the high one, both as value + 8. INT8, line j: byte 4r + t is column 4j + t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from model import huge_pages
from model.quantize import OFFSET, QuantizedWeight, in_threads

TILE = 16
"""Rows of a tile."""

_AT_ONCE = 1 << 18
"""Bytes that a thread reorders at a time: few enough for its cache."""


@dataclass(frozen=True, slots=True)
class TiledWeight:
    """A matrix [out, in] of integers with scales, in tiles; rows and columns are padded with zeros.

    packed: uint8 [tiles, blocks, 16 * block * bits / 8], tiles = ceil(out / 16), blocks = ceil(in / block);
    scale: float16 [tiles, groups, 16], groups = ceil(in / group_size); zero: the same shape or None.
    The meaning of the integers is that of `QuantizedWeight`.
    """

    bits: Literal[4, 8]
    group_size: int
    out_features: int
    in_features: int
    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None

    @property
    def block(self) -> int:
        """Columns of a block."""
        return block_size(self.group_size, self.in_features)

    @property
    def group_blocks(self) -> int:
        """Blocks that share a scale: all of a row where it has one."""
        return self.packed.shape[1] if self.scale.shape[1] == 1 else self.group_size // self.block

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero-points, padding included."""
        return sum(tensor.nbytes for tensor in (self.packed, self.scale, self.zero) if tensor is not None)

    def rows(self, start: int, end: int) -> QuantizedWeight:
        """The rows [start, end), one after another."""
        first, last = start // TILE, -(-end // TILE)
        zero = None if self.zero is None else self.zero[first:last]
        out = min(self.out_features, last * TILE) - first * TILE
        tiles = replace(
            self, out_features=out, packed=self.packed[first:last], scale=self.scale[first:last], zero=zero
        )
        return to_rows(tiles).rows(start - first * TILE, end - first * TILE)

    def copy(self) -> TiledWeight:
        """The same in memory of its own, in huge pages."""

        def copied(tensor: Tensor) -> Tensor:
            return huge_pages.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)

        zero = None if self.zero is None else copied(self.zero)
        return replace(self, packed=copied(self.packed), scale=copied(self.scale), zero=zero)

    def to(self, device: torch.device) -> TiledWeight:
        """The same on a device, sharing memory where it is there already."""
        zero = None if self.zero is None else self.zero.to(device)
        return replace(self, packed=self.packed.to(device), scale=self.scale.to(device), zero=zero)


def block_size(group_size: int, in_features: int) -> int:
    """Columns of a block: as many as divide a group, 64 or 32; rows with one scale are cut into 64."""
    return 64 if group_size >= in_features or group_size % 64 == 0 else 32


def fits_shape(bits: Literal[4, 8], group_size: int, in_features: int) -> bool:
    """Whether blocks never straddle groups: one scale a row, or groups of a multiple of 32 (INT8: 64)."""
    return group_size >= in_features or group_size % (32 if bits == 4 else 64) == 0


def fits(weight: QuantizedWeight) -> bool:
    """Whether a matrix can be put into tiles without loss: also its scales must be exact in float16."""
    return fits_shape(weight.bits, weight.group_size, weight.in_features) and all(
        tensor.dtype == torch.float16 or torch.equal(tensor.half().to(tensor.dtype), tensor)
        for tensor in (weight.scale, weight.zero)
        if tensor is not None
    )


def shapes(
    bits: Literal[4, 8], group_size: int, out_features: int, in_features: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shapes of `packed` and of `scale`."""
    block = block_size(group_size, in_features)
    tiles, blocks = -(-out_features // TILE), -(-in_features // block)
    return (tiles, blocks, TILE * block * bits // 8), (tiles, -(-in_features // group_size), TILE)


def to_tiles(weight: QuantizedWeight) -> TiledWeight:
    """The same matrix in tiles; it must fit."""
    if not fits(weight):
        raise ValueError(f"groups of {weight.group_size} with {weight.scale.dtype} scales have no tiles")
    shape, scales = shapes(weight.bits, weight.group_size, weight.out_features, weight.in_features)
    packed = huge_pages.empty(shape, torch.uint8)
    rows = weight.packed.view(torch.uint8)
    width = shape[1] * shape[2] // TILE
    step, span = _steps(shape[0], width)

    def reorder(first: int) -> None:
        nibbles = _Nibbles(block_size(weight.group_size, weight.in_features), step * TILE * width)
        for tile in range(first, min(first + span, shape[0]), step):
            part = rows[tile * TILE : (tile + step) * TILE]
            part = _padded(part, -(-len(part) // TILE) * TILE, width, OFFSET * 17 if weight.bits == 4 else 0)
            if weight.bits == 4:
                part = nibbles.halves(part)
            words = part.view(torch.int32).view(-1, TILE, width // 4)
            lines = packed[tile : tile + step].view(torch.int32).view(len(words), width // 4, TILE)
            lines.copy_(words.transpose(1, 2))

    in_threads(reorder, range(0, shape[0], span))

    def tiled(values: Tensor) -> Tensor:
        values = _padded(values.half(), shape[0] * TILE, scales[1], 0)
        return values.view(-1, TILE, scales[1]).transpose(1, 2).contiguous()

    zero = None if weight.zero is None else tiled(weight.zero)
    return TiledWeight(
        weight.bits,
        weight.group_size,
        weight.out_features,
        weight.in_features,
        packed,
        tiled(weight.scale),
        zero,
    )


def to_rows(weight: TiledWeight) -> QuantizedWeight:
    """The same matrix row after row, to the bit what it was made from (its scales in float16)."""
    tiles, blocks, size = weight.packed.shape
    width, stored = blocks * size // TILE, -(-weight.in_features * weight.bits // 8)
    rows = torch.empty((weight.out_features, stored), dtype=torch.uint8)
    step, span = _steps(tiles, width)

    def reorder(first: int) -> None:
        nibbles = _Nibbles(weight.block, step * TILE * width)
        words = torch.empty((step, TILE, width // 4), dtype=torch.int32)
        for tile in range(first, min(first + span, tiles), step):
            lines = weight.packed[tile : tile + step].view(torch.int32).view(-1, width // 4, TILE)
            part = words[: len(lines)].copy_(lines.transpose(1, 2)).view(torch.uint8).view(-1, width)
            if weight.bits == 4:
                part = nibbles.pairs(part)
            target = rows[tile * TILE : (tile + step) * TILE]
            target.copy_(part[: len(target), :stored])

    in_threads(reorder, range(0, tiles, span))

    def untiled(values: Tensor) -> Tensor:
        return values.transpose(1, 2).flatten(0, 1)[: weight.out_features].contiguous()

    return QuantizedWeight(
        weight.bits,
        weight.group_size,
        weight.in_features,
        rows if weight.bits == 4 else rows.view(torch.int8),
        untiled(weight.scale),
        None if weight.zero is None else untiled(weight.zero),
    )


def _steps(tiles: int, width: int) -> tuple[int, int]:
    """How many tiles of rows of `width` bytes are reordered at a time, and how many by one thread."""
    step = max(1, _AT_ONCE // (TILE * width))
    share = -(-tiles // torch.get_num_threads())
    return step, -(-share // step) * step


def _padded(values: Tensor, rows: int, columns: int, value: int) -> Tensor:
    missing = (0, columns - values.shape[1], 0, rows - values.shape[0])
    return pad(values, missing, value=value) if any(missing) else values


class _Nibbles:
    """Reorders the nibbles of up to `size` bytes; its results are overwritten by the next ones.

    Memory is taken once: a fresh piece for every step would cost more than the steps themselves.
    """

    def __init__(self, block: int, size: int) -> None:
        self._half = block // 16  # in words of eight columns
        self._codes = torch.empty(size, dtype=torch.int16)
        self._shifted = torch.empty(size, dtype=torch.int16)
        self._bytes = torch.empty(size, dtype=torch.uint8)

    def halves(self, rows: Tensor) -> Tensor:
        """Bytes of columns 2i (low) and 2i + 1 (high) to bytes of columns i and half a block + i."""
        size = rows.numel()
        codes, shifted, out = self._codes[:size], self._shifted[:size], self._bytes[:size]
        shifted.view(rows.shape).copy_(rows)
        torch.bitwise_left_shift(shifted, 4, out=codes)
        codes |= shifted
        codes &= 0x0F0F  # one column a byte
        torch.bitwise_left_shift(codes, 4, out=shifted)
        low, high = (columns.view(torch.int64).view(-1, 2, self._half) for columns in (codes, shifted))
        torch.bitwise_or(low[:, 0], high[:, 1], out=out.view(torch.int64).view(-1, self._half))
        return out.view(rows.shape)

    def pairs(self, rows: Tensor) -> Tensor:
        """The inverse of `halves`."""
        size = rows.numel()
        codes, shifted, out = self._codes[:size], self._shifted[:size], self._bytes[:size]
        both = rows.view(torch.int64).view(-1, self._half)
        apart = codes.view(torch.int64).view(-1, 2, self._half)
        apart[:, 0] = both
        apart[:, 1] = both >> 4
        codes &= 0x0F0F
        torch.bitwise_right_shift(codes, 4, out=shifted)
        codes |= shifted
        return out.copy_(codes).view(rows.shape)
