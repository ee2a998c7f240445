"""Every operation of the network in plain PyTorch: what serves where nothing faster does, and the oracle.

Activations are [tokens, features] without padding: sequences of unequal length stand one after another.
Each function computes in the dtype of its activations, sums and exponentials in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from model.quantize import QuantizedWeight, dequantize

_BLOCK = 1 << 18
"""Weights turned into floats at a time: what fits into the cache of a core."""


def linear(x: Tensor, weight: Tensor | QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """x W^T + b for x [tokens, in] and W [out, in] in any form; returns [tokens, out] in x's dtype."""
    bias = None if bias is None else bias.to(x.dtype)
    if isinstance(weight, Tensor) and weight.dtype == x.dtype:
        return functional.linear(x, weight, bias)
    out = weight.shape[0] if isinstance(weight, Tensor) else weight.out_features
    step = max(1, _BLOCK // x.shape[1])
    y = x.new_empty(len(x), out)  # at once: pieces of it between large blocks would fragment the heap
    for start in range(0, out, step):
        y[:, start : start + step] = functional.linear(x, _floats(weight, start, start + step, x.dtype))
    return y if bias is None else y + bias


def embed(ids: Tensor, table: Tensor | QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """Rows of the embedding [vocab, hidden] for ids [tokens], as [tokens, hidden]."""
    if isinstance(table, Tensor):
        return table[ids].to(dtype)
    zero = None if table.zero is None else table.zero[ids]
    rows = QuantizedWeight(
        table.bits, table.group_size, table.in_features, table.packed[ids], table.scale[ids], zero
    )
    return dequantize(rows, dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """LayerNorm over the last dimension with the population's variance."""
    y = functional.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), epsilon)
    return y.to(x.dtype)


def residual(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """alpha x + y, where x is the *normalised* input of the branch that gave y."""
    return alpha * x + y


def gelu(x: Tensor) -> Tensor:
    """The tanh form."""
    return functional.gelu(x, approximate="tanh")


def rotary_frequencies(size: int, device: torch.device | None = None) -> Tensor:
    """theta_i = 10000^(-2i / size), rounded to fp16 as in the published model; float32 [size / 2]."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    return (1.0 / 10_000**exponents).half().float()


def rotary_tables(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """cos and sin of p theta for positions [tokens, axes]: each [tokens, axes, size / 2] in `dtype`.

    float16 computes the products in half as well, as the published model does on a GPU.
    """
    angles = positions[..., None].to(dtype) * frequencies.to(dtype)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position encoding of x [tokens, heads, head size], which the axes share in equal parts.

    Inside a part the pairs are (i, i + half of the part).
    """
    u, w = x.reshape(*x.shape[:-1], cos.shape[1], 2, cos.shape[2]).float().unbind(-2)
    cos, sin = cos.float().unsqueeze(1), sin.float().unsqueeze(1)
    return torch.stack((u * cos - w * sin, w * cos + u * sin), dim=-2).flatten(-3).to(x.dtype)


def attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for one sequence: q [new, heads, d], k and v [all, heads, d].

    Everything sees everything; `causal`: the new tokens are the last ones, none sees what comes after it.
    """
    mask = None
    if causal:
        new, total = len(query), len(key)
        mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    context = functional.scaled_dot_product_attention(
        query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), attn_mask=mask
    )
    return context.transpose(0, 1)


def _floats(weight: Tensor | QuantizedWeight, start: int, end: int, dtype: torch.dtype) -> Tensor:
    """The rows [start, end) as floats."""
    if isinstance(weight, Tensor):
        return weight[start:end].to(dtype)
    return dequantize(weight.rows(start, min(end, weight.out_features)), dtype)
