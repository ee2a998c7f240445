"""Every operation of the network in plain PyTorch: what serves where nothing faster does, and the oracle.

Activations are [tokens, features] without padding: sequences of unequal length stand one after another.
Each operation computes in the dtype of its activations, sums and exponentials in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.rotary import split_and_rotate
from model.kv_cache import KVBatch, KVPages
from model.quantize import QuantizedWeight, dequantize
from model.weights import Matrix, Norm, in_rows

_BLOCK = 1 << 18
"""Weights turned into floats at a time: what fits into the cache of a core."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`Operations` on any device that torch knows; its operations on rows let gradients through."""

    dtype: torch.dtype
    exact: bool = False
    name: str = "reference"

    def prepare(self, weight: Matrix) -> Matrix:
        """In rows."""
        return in_rows(weight)

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """x W^T + b in x's dtype."""
        y = _linear(x, weight, None if bias is None else bias.to(x.dtype))
        return functional.gelu(y, approximate="tanh") if gelu else y

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of the embedding."""
        table = in_rows(table)
        if isinstance(table, Tensor):
            return table[ids].to(self.dtype)
        zero = None if table.zero is None else table.zero[ids]
        rows = QuantizedWeight(
            table.bits, table.group_size, table.in_features, table.packed[ids], table.scale[ids], zero
        )
        return dequantize(rows, self.dtype)

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm in x's dtype."""
        weight, bias = norm.weight.float(), norm.bias.float()
        return functional.layer_norm(x.float(), x.shape[-1:], weight, bias, epsilon).to(x.dtype)

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm of alpha x + y, which is rounded to x's dtype first."""
        return self.norm(alpha * x + y, norm, epsilon)

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split, rotate, and write keys and values into their pages."""
        query, key, value = split_and_rotate(qkv, pages.heads, cos, sin)
        pages.write(layer, slots, key, value)
        return query, key, value

    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor:
        """Sequence by sequence over keys and values gathered from its pages."""
        contexts = []
        for cache, part in zip(batch.caches, torch.split(query, batch.lengths), strict=True):
            if len(part):
                key, value = batch.pages.read(layer, cache.indices, cache.length + len(part), query.dtype)
                contexts.append(attend(part, key, value, causal=True))
        return torch.cat(contexts)

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Everything sees everything."""
        return attend(query, key.transpose(0, 1), value.transpose(0, 1))

    def layers(self, *_: object) -> None:
        """One operation after another."""


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for one sequence: q [new, heads, d], k and v [heads, all, d].

    Returns [new, heads * d]. `causal`: the new tokens are the last ones, none sees what comes after it.
    """
    mask, new, total = None, len(query), key.shape[1]
    if causal and new > 1:
        mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    context = functional.scaled_dot_product_attention(query.transpose(0, 1), key, value, attn_mask=mask)
    return context.transpose(0, 1).flatten(1)


def _linear(x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
    if isinstance(weight, Tensor) and weight.dtype == x.dtype:
        return functional.linear(x, weight, bias)
    out = weight.shape[0] if isinstance(weight, Tensor) else weight.out_features
    step = max(1, _BLOCK // x.shape[1])
    y = x.new_empty(len(x), out)  # at once: pieces of it between large blocks would fragment the heap
    for start in range(0, out, step):
        y[:, start : start + step] = functional.linear(x, _floats(weight, start, start + step, x.dtype))
    return y if bias is None else y + bias


def _floats(weight: Matrix, start: int, end: int, dtype: torch.dtype) -> Tensor:
    """The rows [start, end) as floats."""
    if isinstance(weight, Tensor):
        return weight[start:end].to(dtype)
    return dequantize(weight.rows(start, min(end, weight.out_features)), dtype)
