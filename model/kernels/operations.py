"""What the network asks of an implementation: one method for each operation worth being fast.

Activations are [tokens, features] without padding: sequences of unequal length stand one after another. All
operations but the two attentions work row by row, so they may be given any slice of the tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from model.kv_cache import KVBatch, KVPages
from model.weights import Matrix, Norm, Weights


class Operations(Protocol):
    """All operations of the network on one device."""

    @property
    def name(self) -> str:
        """For people: "reference", "native avx512vnni" ..."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        ...

    @property
    def exact(self) -> bool:
        """That float32 was asked for: no activation is quantised, keys and values are stored in float32."""
        ...

    def prepare(self, weight: Matrix) -> Matrix:
        """The matrix in the order that is read fastest; the same one where it is in that order.

        It is on the device already, where it is reordered, and stays there.
        """
        ...

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """x W^T + b for x [tokens, in] and W [out, in]; `gelu`: its tanh form of that. [tokens, out]."""
        ...

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of the embedding [vocab, hidden] for int64 ids [tokens]: [tokens, hidden]."""
        ...

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm over the last dimension with the population's variance."""
        ...

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm of alpha x + y, where x is the *normalised* input of the branch that gave y."""
        ...

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split and rotate qkv, and write keys and values of a layer into slots [tokens] of the pages.

        qkv: [tokens, heads * 3 * head size], each head's query, key and value side by side. cos, sin: float32
        [tokens, axes, head size / axes / 2] (`rotary.tables`). Returns query, key (both rotated) and value,
        each [tokens, heads, head size], as they are before they are stored.
        """
        ...

    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor:
        """Attention of each sequence's new tokens to its pages, up to and including the token itself.

        query: [tokens, heads, head size] of all sequences; returns [tokens, heads * head size].
        """
        ...

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention within one prompt, where everything sees everything.

        query: [new, heads, head size], key and value: [all, heads, head size], those of a prefix in front;
        returns [new, heads * head size].
        """
        ...

    def layers(
        self,
        a: Tensor,
        weights: Weights,
        rotary: tuple[Tensor, Tensor],
        batch: KVBatch,
        alpha: float,
        epsilon: float,
    ) -> Tensor | None:
        """All layers over new tokens in one go; None where that is no faster than operation by operation.

        a: [tokens, hidden], the first layer's normalised input; returns that of the head. Keys and values go
        into the pages; attention is that to pages.
        """
        ...
