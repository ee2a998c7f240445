"""Rotary position encoding (Su et al. 2021) on one or two axes; spec/chatglm-6b.md, section 4."""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(size: int, device: torch.device | None = None) -> Tensor:
    """theta_i = 10000^(-2i / size), rounded to fp16 as in the published model; float32 [size / 2]."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    return (1.0 / 10_000**exponents).half().float()


def tables(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """cos and sin of p theta for positions [tokens, axes]: each float32 [tokens, axes, size / 2].

    float16 computes products, cosines and sines in half, as the published model does on a GPU.
    """
    angles = positions[..., None].to(dtype) * frequencies.to(dtype)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [tokens, heads, head size], which the axes share in equal parts.

    Inside a part the pairs are (i, i + half of the part).
    """
    u, w = x.reshape(*x.shape[:-1], cos.shape[1], 2, cos.shape[2]).float().unbind(-2)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.stack((u * cos - w * sin, w * cos + u * sin), dim=-2).flatten(-3).to(x.dtype)


def split_and_rotate(qkv: Tensor, heads: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query and key, rotated, and value, each [tokens, heads, head size].

    qkv: [tokens, heads * 3 * head size], each head's query, key and value side by side.
    """
    query, key, value = qkv.view(len(qkv), heads, 3, -1).unbind(2)
    return rotate(query, cos, sin), rotate(key, cos, sin), value
