"""INT4 linear layers by PyTorch's own operator for CPUs, for where the native library is not built.

The operator multiplies bfloat16 by INT4 in its own order, which differs between CPUs and is never stored. It
is slower than the native library and many times faster than the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.reference import Reference
from model.quantize import OFFSET, QuantizedWeight
from model.weights import Matrix, in_rows

_GROUPS = (256, 128, 64, 32)
"""Columns that may share a scale in the operator; wider groups are cut into such pieces."""
_ROWS = 16
"""It takes whole multiples of so many rows."""
_AT_ONCE = 4096
"""Rows packed at a time: the operator wants an int32 for every weight. It orders them within 64 rows."""


def is_available() -> bool:
    """Whether this PyTorch (2.6 and later) has the operator, and more than a slow form of it for this CPU."""
    written_for = torch.backends.cpu.get_cpu_capability()
    return hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu") and written_for.startswith("AVX")


@dataclass(frozen=True, slots=True)
class TorchWeight:
    """An INT4 matrix in the operator's order; a weight is (code - 8) * scale + zero.

    packed: uint8 [out, in / 2]; scale_zero: bfloat16 [groups, out, 2].
    """

    group_size: int
    packed: Tensor
    scale_zero: Tensor

    def to(self, device: torch.device) -> TorchWeight:
        """The same on a device, sharing memory where it is there already."""
        return replace(self, packed=self.packed.to(device), scale_zero=self.scale_zero.to(device))

    def multiply(self, x: Tensor) -> Tensor:
        """x W^T for x [tokens, in], rounded to bfloat16 before and after; in x's dtype."""
        operator = torch.ops.aten._weight_int4pack_mm_for_cpu
        y: Tensor = operator(x.to(torch.bfloat16), self.packed, self.group_size, self.scale_zero)
        return y.to(x.dtype)


@dataclass(frozen=True, slots=True)
class TorchInt4(Reference):
    """`Operations` on the CPU: linear layers in INT4 by the operator, all else as the reference does it."""

    name: str = "torch int4"

    def prepare(self, weight: Matrix) -> Matrix:
        """In the operator's order where it can take the matrix, else in rows."""
        rows = in_rows(weight)
        packed = pack(rows)
        # no other implementation is ever given what this one has prepared
        return rows if packed is None else cast(Matrix, packed)

    def linear(
        self, x: Tensor, weight: Matrix | TorchWeight, bias: Tensor | None = None, *, gelu: bool = False
    ) -> Tensor:
        """x W^T + b in x's dtype."""
        if not isinstance(weight, TorchWeight):
            return Reference.linear(self, x, weight, bias, gelu=gelu)
        y = weight.multiply(x)
        if bias is not None:
            y += bias.to(x.dtype)
        return functional.gelu(y, approximate="tanh") if gelu else y


def pack(weight: Tensor | QuantizedWeight) -> TorchWeight | None:
    """The matrix in the operator's order; None where it is not INT4 or of a shape that it does not take."""
    if isinstance(weight, Tensor) or weight.bits != 4 or weight.out_features % _ROWS:
        return None
    width = min(weight.group_size, weight.in_features)
    group = next((size for size in _GROUPS if width % size == 0), None)
    if group is None or weight.in_features % width:
        return None
    scale = weight.scale.float()
    zero = torch.zeros_like(scale) if weight.zero is None else -weight.zero.float() * scale
    scale_zero = torch.stack((scale, zero), dim=-1).repeat_interleave(width // group, dim=1)
    packed = torch.empty(weight.out_features, weight.in_features // 2, dtype=torch.uint8)
    for start in range(0, weight.out_features, _AT_ONCE):
        rows = weight.rows(start, start + _AT_ONCE)
        codes = rows.integers().to(torch.int32) + OFFSET
        packed[start : start + _AT_ONCE] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
    return TorchWeight(group, packed, scale_zero.transpose(0, 1).to(torch.bfloat16).contiguous())
