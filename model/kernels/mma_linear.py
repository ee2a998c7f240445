"""Linear layers, logits and the embedding by the kernels of cuda/, over matrices in MMA tiles.

A sum does not hang on the rows beside it: columns are cut in the same places for any number of rows, and what
comes of the parts is added in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.launcher import Launcher
from model.mma_tiles import MmaWeight, fits, to_mma
from model.weights import Matrix, in_rows

ROWS = 64
"""Of x that a kernel takes at once."""
DEQUANTIZE_FROM = 129
"""Rows from which a matrix in float16 and cuBLAS are faster than its integers, read for every 64 rows."""
EXPANDED = 1 << 25
"""Bytes of a matrix in float16 at a time: enough outputs for all of a card, little beside the weights."""
_OUTPUTS, _STEP, _THREADS = 64, 128, 256
"""Outputs of a block, the columns it reads at a time, and its threads (cuda/linear.cuh)."""
_MOST_OF_THREE = {4: 4, 8: 2}
"""Tiles of 8 rows up to which three steps are in shared memory, by bits: enough bytes on their way, and room
for enough blocks a multiprocessor."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What a linear layer gives unrounded: float32 [shares, rows, out], to be added up, and its bias."""

    shares: Tensor
    bias: Tensor


class MmaLinear:
    """Products of float16 rows [rows, in] by matrices in MMA tiles [out, in]."""

    def __init__(self, launcher: Launcher, device: torch.device) -> None:
        self._launcher = launcher
        self._device = device

    def prepare(self, weight: Matrix) -> Matrix:
        """In MMA tiles where they can hold the matrix and kernels read it, else in rows."""
        if isinstance(weight, MmaWeight) and _takes(weight):
            return weight
        rows = in_rows(weight)
        if isinstance(rows, Tensor) or not fits(rows):
            return rows
        tiled = to_mma(rows)
        return tiled if _takes(tiled) else rows

    def linear(self, x: Tensor, weight: MmaWeight, bias: Tensor, *, gelu: bool) -> Tensor:
        """x W^T + b, or GELU of it, in float16 [rows, out]."""
        if len(x) >= DEQUANTIZE_FROM:
            return self._many(x, weight, bias, gelu)
        parts = [self._few(part, weight, bias, gelu) for part in torch.split(x, most_rows(weight))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sums(self, x: Tensor, weight: MmaWeight, bias: Tensor) -> Sums:
        """x W^T for up to `most_rows` rows, as sums of shares of the columns."""
        shares = self._shares(weight)
        sums = self._empty(shares, len(x), weight.out_features, dtype=torch.float32)
        self._multiply("linear_sums", x, weight, shares, sums)
        return Sums(sums, bias)

    def logits(self, x: Tensor, weight: MmaWeight) -> Tensor:
        """x W^T in float32 [rows, out] for INT8."""
        return torch.cat([self._logits(part, weight) for part in torch.split(x, ROWS)])

    def embed(self, ids: Tensor, table: MmaWeight) -> Tensor:
        """Rows of an INT8 matrix in float16 [tokens, in], for int64 ids [tokens]."""
        y = self._empty(len(ids), table.in_features)
        if len(ids):
            grid = (len(ids), 1, 1)
            self._launcher.launch("embed", grid, 256, ids, table.packed, table.scale, y, table.in_features)
        return y

    def dequantize(self, weight: MmaWeight, start: int = 0, end: int | None = None) -> Tensor:
        """Rows [start, end) of the matrix, both multiples of 16, in float16."""
        end = weight.out_features if end is None else end
        y = self._empty(end - start, weight.in_features)
        self._launcher.launch(
            _dequantize(weight),
            (-(-weight.in_features // 64 // 8), (end - start) // 16, 1),
            256,
            *(weight.packed, weight.scale, weight.zero, y),
            *(weight.out_features, weight.in_features, _shift(weight), start // 16),
            shared=8 * 16 * (64 + 8) * 2,
        )
        return y

    def kernels(self, weight: Matrix) -> Iterator[str]:
        """Those that it needs for a matrix."""
        if not isinstance(weight, MmaWeight):
            return
        yield _dequantize(weight)
        for tiles in range(1, most_rows(weight) // 8 + 1):
            stages = self._stages(tiles, weight.bits)
            yield f"linear_sums{_arguments(weight, tiles, stages)}"
            yield f"linear_gelu{_arguments(weight, tiles, stages)}"

    def head_kernels(self) -> Iterator[str]:
        """Those that it needs for the embedding and logits."""
        yield "embed"
        for tiles in range(1, ROWS // 8 + 1):
            yield f"head_logits<{tiles}, {self._stages(tiles, 8)}>"

    # -- launches ---------------------------------------------------------------------------

    def _many(self, x: Tensor, weight: MmaWeight, bias: Tensor, gelu: bool) -> Tensor:
        """The same by cuBLAS, over some rows of the matrix at a time."""
        y = self._empty(len(x), weight.out_features)
        step = max(1, EXPANDED // (2 * weight.in_features * 16)) * 16
        for start in range(0, weight.out_features, step):
            end = min(start + step, weight.out_features)
            part = functional.linear(x, self.dequantize(weight, start, end), bias[start:end])
            y[:, start:end] = functional.gelu(part, approximate="tanh") if gelu else part
        return y

    def _few(self, x: Tensor, weight: MmaWeight, bias: Tensor, gelu: bool) -> Tensor:
        """x W^T + b for up to `most_rows` rows."""
        y = self._empty(len(x), weight.out_features)
        if gelu and -(-weight.out_features // _OUTPUTS) >= self._launcher.multiprocessors:
            self._multiply("linear_gelu", x, weight, 1, bias, y)
            return y
        sums = self.sums(x, weight, bias).shares
        grid = (-(-weight.out_features // 1024), len(x), 1)
        kernel = "add_bias<true>" if gelu else "add_bias<false>"
        self._launcher.launch(kernel, grid, 256, sums, len(sums), bias, y, weight.out_features)
        return y

    def _multiply(self, kernel: str, x: Tensor, weight: MmaWeight, shares: int, *out: Tensor) -> None:
        tiles = _tiles(len(x))
        stages = self._stages(tiles, weight.bits)
        self._launcher.launch(
            kernel + _arguments(weight, tiles, stages),
            (-(-weight.out_features // _OUTPUTS), shares, 1),
            _THREADS,
            *(x.contiguous(), weight.packed, weight.scale, weight.zero, *out),
            *(len(x), weight.out_features, weight.in_features, _shift(weight)),
            shared=linear_shared(weight.bits, tiles, stages),
        )

    def _logits(self, x: Tensor, weight: MmaWeight) -> Tensor:
        y = self._empty(len(x), weight.out_features, dtype=torch.float32)
        tiles = _tiles(len(x))
        stages = self._stages(tiles, 8)
        self._launcher.launch(
            f"head_logits<{tiles}, {stages}>",
            (-(-weight.out_features // _OUTPUTS), 1, 1),
            _THREADS,
            *(x.contiguous(), weight.packed, weight.scale, y),
            *(len(x), weight.out_features, weight.in_features),
            shared=linear_shared(8, tiles, stages),
        )
        return y

    def _shares(self, weight: MmaWeight) -> int:
        """Parts that the columns are cut into: enough blocks for the card, each with enough to read.

        It must not hang on the rows of x: the same sum would have other bits in another batch.
        """
        blocks, steps, shares = -(-weight.out_features // _OUTPUTS), weight.in_features // _STEP, 1
        while blocks * shares < 2 * self._launcher.multiprocessors and shares < 8 and steps >= 8 * shares:
            shares *= 2
        return shares

    def _stages(self, tiles: int, bits: int) -> int:
        """Before compute capability 8.0 nothing is copied ahead: one stage is filled, one in use."""
        return 3 if self._launcher.arch >= 80 and tiles <= _MOST_OF_THREE[bits] else 2

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)


def most_rows(weight: MmaWeight) -> int:
    """Rows of x that a kernel takes at once: zero-points and groups of 32 need registers."""
    return ROWS if weight.zero is None and weight.group_size != 32 else ROWS // 2


def _takes(weight: MmaWeight) -> bool:
    """Whether kernels can read it: INT8 of one scale a row, INT4 of that or groups of a power of two."""
    if weight.group_size >= weight.in_features:
        return True
    return weight.bits == 4 and weight.group_size & (weight.group_size - 1) == 0


def _tiles(rows: int) -> int:
    """Of 8 rows of x."""
    return -(-rows // 8)


def _arguments(weight: MmaWeight, tiles: int, stages: int) -> str:
    """Of the templates of cuda/w4_linear.cu."""
    narrow, zeros = _bool(weight.group_size == 32), _bool(weight.zero is not None)
    return f"<{weight.bits}, {narrow}, {zeros}, {tiles}, {stages}>"


def _dequantize(weight: MmaWeight) -> str:
    return f"dequantize<{weight.bits}, {_bool(weight.zero is not None)}>"


def linear_shared(bits: int, tiles: int, stages: int) -> int:
    """Bytes of all stages: weights, and rows of x that are 8 halves longer for the sake of ldmatrix."""
    return stages * (_OUTPUTS * _STEP * bits // 8 + tiles * 8 * (_STEP + 8) * 2)


def _shift(weight: MmaWeight) -> int:
    """2^shift columns share a scale."""
    return 31 if weight.group_size >= weight.in_features else weight.group_size.bit_length() - 1


def _bool(value: bool) -> str:
    return "true" if value else "false"
