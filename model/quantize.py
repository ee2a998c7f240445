"""Weight-only quantisation of matrices to INT4 and INT8, and the published packing.

A quantised weight is (q - zero) * scale, one scale for `group_size` neighbouring columns of a row; without
`zero` it is symmetric, q * scale. A per-row scheme is a group as wide as the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from model.scales import HALF_MAX, half_quadratic, plain_scale, search_scale, steps
from model.types import ModelError

OFFSET = 8
"""What is added to an INT4 value before it is stored: 0..15 stands for -8..7."""

BLOCK = 1 << 17
"""Weights that a thread quantises at once: few enough for its cache, many enough to outweigh the calls."""
_CARD_BLOCK = 1 << 24
"""The same on a graphics card: enough for all of it, in memory that a card has left beside the weights."""

_AGAIN = "the file may be damaged: download it again"

Fit: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""From groups [out, groups, width] to their scales and zero-points [out, groups, 1]."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [out, in] of integers with scales.

    packed: bits 8: int8 [out, in]; bits 4: uint8 [out, ceil(in / 2)], value + 8, even column in low nibble.
    scale: [out, groups], groups = ceil(in / group_size), float16 or float32; zero: the same shape or None,
    in units of the integers -8..7 (not of the stored 0..15).
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
        return replace(self, packed=self.packed[start:end], scale=self.scale[start:end], zero=zero)

    def to(self, device: torch.device) -> QuantizedWeight:
        """The same on a device, sharing memory where it is there already."""
        zero = None if self.zero is None else self.zero.to(device)
        return replace(self, packed=self.packed.to(device), scale=self.scale.to(device), zero=zero)

    def integers(self) -> Tensor:
        """The integers, int8 [out, in]."""
        return self.packed if self.bits == 8 else unpack_int4(self.packed, self.in_features)


def pack_int4(values: Tensor) -> Tensor:
    """int8 [out, in] in -8..7 to uint8 [out, ceil(in / 2)]; an odd last column is padded with zero."""
    codes = values + OFFSET
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1), value=OFFSET)
    pairs = codes.contiguous().view(torch.int16)
    return (pairs | (pairs >> 4)).to(torch.uint8)


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """The inverse of `pack_int4`: int8 [out, in_features]."""
    pairs = packed.to(torch.int16)  # both nibbles of a byte are spread over the two bytes of a pair
    pairs |= pairs << 4
    pairs &= 0x0F0F
    codes = pairs.view(torch.int8)
    codes -= OFFSET
    return codes[:, :in_features]


def dequantize(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix [out, in]: the float32 product of scale and integer, then rounded to `dtype`.

    With scales of float16 and no zero-points the product is exact, so float16 is rounded once only.
    """
    values = weight.integers().to(torch.float32)
    zero = None if weight.zero is None else weight.zero.to(torch.float32).unsqueeze(2)
    scale = weight.scale.to(torch.float32).unsqueeze(2)
    for groups, columns in _by_group(values, weight.group_size):
        if zero is not None:
            groups -= zero[:, columns]
        groups *= scale[:, columns]
    return values.to(dtype)


def _by_group(matrix: Tensor, group_size: int) -> Iterator[tuple[Tensor, slice]]:
    """Views [out, groups, width] of the whole groups and of a short last one, and which groups they are."""
    whole, rest = divmod(matrix.shape[1], group_size)
    if whole:
        yield matrix[:, : whole * group_size].view(-1, whole, group_size), slice(0, whole)
    if rest:
        yield matrix[:, whole * group_size :].unsqueeze(1), slice(whole, whole + 1)


# -- quantising ------------------------------------------------------------------------------


def quantize_int4(
    weight: Tensor, group_size: int = 64, search: bool = True, *, name: str | None = None
) -> QuantizedWeight:
    """Symmetric INT4 of a matrix [out, in] of any float type; float16 scales, possibly negative.

    search: the scale of the least squared error instead of max / 7. The last group of a row may be short.
    Raises ModelError, naming the tensor `name`, where a weight is not finite or too large.
    """

    def fit(groups: Tensor) -> tuple[Tensor, None]:
        return (search_scale(groups) if search else plain_scale(groups, 7)), None

    return _quantize(weight, 4, group_size, fit, name)


def quantize_int4_hqq(weight: Tensor, group_size: int = 64, *, name: str | None = None) -> QuantizedWeight:
    """INT4 with float16 scales and zero-points found by HQQ; otherwise as `quantize_int4`."""
    return _quantize(weight, 4, group_size, half_quadratic, name, with_zero=True)


def quantize_int8(weight: Tensor, *, name: str | None = None) -> QuantizedWeight:
    """Symmetric INT8 with one float16 scale a row, max / 127; raises as `quantize_int4`."""
    return _quantize(weight, 8, weight.shape[1], lambda groups: (plain_scale(groups, 127), None), name)


def _quantize(
    weight: Tensor,
    bits: Literal[4, 8],
    group_size: int,
    fit: Fit,
    name: str | None,
    with_zero: bool = False,
) -> QuantizedWeight:
    """Quantise block by block of rows, so that little memory is needed besides the result."""
    weight = weight.detach()
    rows, columns = weight.shape
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    width, dtype = ((columns + 1) // 2, torch.uint8) if bits == 4 else (columns, torch.int8)
    packed = torch.empty((rows, width), dtype=dtype, device=weight.device)
    scales = torch.empty((rows, -(-columns // group_size)), dtype=torch.float16, device=weight.device)
    zeros = torch.empty_like(scales) if with_zero else None
    on_cpu = weight.device.type == "cpu"
    step = max(1, (BLOCK if on_cpu else _CARD_BLOCK) // columns)

    def quantize_rows(start: int) -> None:
        part = slice(start, start + step)
        block = weight[part].to(torch.float32).contiguous()
        _check_range(block, name)
        integers = torch.empty_like(block, dtype=torch.int8)
        targets = _by_group(integers, group_size)
        for (groups, numbers), (target, _) in zip(_by_group(block, group_size), targets, strict=True):
            scale, zero = fit(groups)
            target.copy_(steps(groups, scale, zero, low, high))
            scales[part, numbers] = scale.squeeze(2)
            if zeros is not None and zero is not None:
                zeros[part, numbers] = zero.squeeze(2)
        packed[part] = pack_int4(integers) if bits == 4 else integers

    if on_cpu:
        in_threads(quantize_rows, range(0, rows, step))
    else:
        for start in range(0, rows, step):
            quantize_rows(start)
    return QuantizedWeight(bits, group_size, columns, packed, scales, zeros)


def in_threads(work: Callable[[int], None], starts: range) -> None:
    """Run `work` for every start in as many threads as torch uses, one operation in one thread.

    Operations on blocks this small are not worth sharing, and on a busy machine threads that wait for each
    other after every one of them spend nearly all time waiting.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(starts) <= 1:
        for start in starts:
            work(start)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, starts))
    finally:
        torch.set_num_threads(threads)  # for threads to come; this one's own number never changed


def _check_range(block: Tensor, name: str | None) -> None:
    """Raise ModelError where a weight is not finite or its scale might not be."""
    low, high = (bound.item() for bound in block.aminmax())
    limit = 7 * HALF_MAX
    if not (-limit <= low and high <= limit):  # so that NaN fails too
        finite = math.isfinite(low) and math.isfinite(high)
        problem = f"weights from {low:g} to {high:g} are too large" if finite else "weights are not finite"
        raise ModelError(problem, tensor=name, remedy=_AGAIN)


# -- the published form: spec/chatglm-6b.md, quantization ------------------------------------


def import_thudm_int4(weight_int8: Tensor, scale: Tensor | None = None) -> Tensor:
    """The integers of a published INT4 matrix, int8 [out, in], from int8 [out, in / 2].

    The even column is the high nibble, in two's complement; `scale` plays no part. Raises ModelError where
    the dtype is not as published: bits of other types shift otherwise.
    """
    _check_published(weight_int8, None)
    return torch.stack((weight_int8 >> 4, (weight_int8 << 4) >> 4), dim=-1).flatten(1)


def from_thudm(
    weight_int8: Tensor, scale: Tensor, bits: Literal[4, 8], name: str | None = None
) -> QuantizedWeight:
    """A published matrix, int8 [out, in] or [out, in / 2], with its scales [out], to the bit.

    Raises ModelError, naming the tensor `name`, where dtype or shape is not as published.
    """
    _check_published(weight_int8, name)
    if not scale.is_floating_point() or scale.shape != weight_int8.shape[:1]:
        problem = f"scales {_shown(scale)} do not fit a matrix {_shown(weight_int8)}"
        raise ModelError(problem, tensor=name, remedy=_AGAIN)
    packed = weight_int8
    if bits == 4:
        codes = weight_int8.view(torch.uint8) ^ 0x88  # in each nibble, from two's complement to value + 8
        packed = (codes >> 4) | (codes << 4)
    in_features = weight_int8.shape[1] * 8 // bits
    return QuantizedWeight(bits, in_features, in_features, packed, scale.unsqueeze(1))


def _check_published(weight: Tensor, name: str | None) -> None:
    if weight.dtype != torch.int8 or weight.ndim != 2:
        raise ModelError(f"{_shown(weight)} instead of an int8 matrix", tensor=name, remedy=_AGAIN)


def quantize_thudm(weight: Tensor, bits: Literal[4, 8]) -> tuple[Tensor, Tensor]:
    """A matrix as published: int8 [out, in] or [out, in / 2], and float16 scales [out].

    To the bit what the reference makes of float16 weights, but for rows of zeros, where it divides 0 by 0:
    here their integers and scale are 0. INT4 needs an even width.
    """
    half = weight.to(torch.float16)
    scale = half.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
    values = torch.round(half / scale.unsqueeze(1)).nan_to_num_(nan=0.0).to(torch.int8)
    if bits == 4:
        values = (values[:, 0::2] << 4) | (values[:, 1::2] & 15)
    return values, scale


def dtype_name(dtype: torch.dtype | None) -> str:
    """As in a message or a config.json: float16, without the package."""
    return str(dtype).removeprefix("torch.")


def _shown(tensor: Tensor) -> str:
    """Dtype and shape, for a message."""
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
