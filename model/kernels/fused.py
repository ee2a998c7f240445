"""The operations of the network by the kernels of cuda/: float16 activations, matrices in MMA tiles.

A row has the same bits whatever else is in the batch: sequences are cut in the same places for any number of
rows, and partial sums are added in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels import sample
from model.kernels.launcher import Argument, Launcher
from model.kernels.mma_linear import MmaLinear, Sums, most_rows
from model.kernels.reference import Reference
from model.kv_cache import KVBatch, KVPages, Storage
from model.mma_tiles import MmaWeight
from model.weights import Block, Linear, Matrix, Norm, Weights

HEAD_SIZE = 128
PART = 256
"""Tokens of a sequence that a block of attention takes (cuda/attn_decode.cu)."""
_PARTIAL = HEAD_SIZE + 2
_NORM_THREADS = 512
_STORAGES: dict[Storage, int] = {"float16": 0, "int8": 1, "int4": 2}


class PagedRows(Protocol):
    """New tokens of some sequences as kernels take them; see `model.kv_cache.KVBatch`."""

    @property
    def pages(self) -> KVPages: ...

    @property
    def slots(self) -> Tensor: ...

    @property
    def tables(self) -> Tensor: ...

    @property
    def rows(self) -> Tensor: ...

    @property
    def longest(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FixedRows:
    """`PagedRows` whose tensors stay where they are, whatever is written into them."""

    pages: KVPages
    slots: Tensor
    tables: Tensor
    rows: Tensor
    longest: int


class Fused:
    """`Operations` on a graphics card, without gradients; what no kernel takes is left to the reference."""

    dtype = torch.float16
    exact = False

    def __init__(self, launcher: Launcher, device: torch.device) -> None:
        self.device = device
        self._launcher = launcher
        self._linear = MmaLinear(launcher, device)
        self._reference = Reference(torch.float16)

    @property
    def name(self) -> str:
        """With the card's name."""
        return f"cuda kernels, {self._launcher.name}"

    def prepare(self, weight: Matrix) -> Matrix:
        """In MMA tiles where they can hold the matrix, else in rows."""
        return self._linear.prepare(weight)

    def prepare_kernels(self, weights: Weights, storage: Storage) -> None:
        """Make ready what answers over such weights and pages will need."""
        self._launcher.prepare(self._kernels(weights, storage))

    # -- linear layers and norms ------------------------------------------------------------

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """x W^T + b; logits, which have no bias, in float32."""
        if not isinstance(weight, MmaWeight):
            return self._reference.linear(x, weight, bias, gelu=gelu)
        if bias is None and weight.bits == 8 and not gelu:
            return self._linear.logits(x, weight)
        bias = x.new_zeros(weight.out_features) if bias is None else bias
        return self._linear.linear(x, weight, bias, gelu=gelu)

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of the embedding."""
        if isinstance(table, MmaWeight) and table.bits == 8:
            return self._linear.embed(ids, table)
        return self._reference.embed(ids, table)

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm."""
        return self._norm(x, None, 1.0, norm, epsilon)

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm of alpha x + y in float32."""
        return self._norm(x, y, alpha, norm, epsilon)

    def _norm(self, x: Tensor, y: Tensor | Sums | None, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        rows, width = x.shape
        if width % 4:
            return self._reference.norm(x if y is None else alpha * x + _halves(y), norm, epsilon)
        out = self._empty(rows, width)
        if rows:
            self._launcher.launch(
                *("layer_norm", (rows, 1, 1), _NORM_THREADS, x.contiguous(), *_halves_or_sums(y)),
                *(norm.weight, norm.bias, out, width, alpha, epsilon),
                shared=4 * (width + _NORM_THREADS // 32),
            )
        return out

    # -- attention --------------------------------------------------------------------------

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split, rotate, and write keys and values into their pages."""
        if not takes_pages(pages):
            return self._reference.rope_kv(qkv, cos, sin, pages, slots, layer)
        key, value = (self._empty(len(qkv), pages.heads, HEAD_SIZE) for _ in range(2))
        query = self._rope(qkv, (cos, sin), pages, slots, layer, (key, value))
        return query, key, value

    def _rope(
        self,
        qkv: Tensor | Sums,
        rotary: tuple[Tensor, Tensor],
        pages: KVPages,
        slots: Tensor,
        layer: int,
        kept: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor:
        """The rotated queries; keys and values go to the pages, and as they are before that into `kept`."""
        cos, sin = (table.contiguous() for table in rotary)
        rows, axes, _ = cos.shape
        query = self._empty(rows, pages.heads, HEAD_SIZE)
        if rows:
            self._launcher.launch(
                *(f"rope_kv<{_STORAGES[pages.storage]}>", (rows, -(-pages.heads // 4), 1), 128),
                *(*_halves_or_sums(qkv), cos, sin, axes, slots.contiguous(), *_of_layer(pages, layer)),
                *(query, *kept, pages.heads),
            )
        return query

    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor:
        """Straight from the pages."""
        if not takes_pages(batch.pages):
            return self._reference.attention(query, batch, layer)
        return self.attend(query, batch, layer)

    def attend(self, query: Tensor, batch: PagedRows, layer: int) -> Tensor:
        """The same for rows however they came about, in pages that kernels take (`takes_pages`)."""
        pages = batch.pages
        rows, heads, _ = query.shape
        parts = -(-batch.longest // PART)
        out, partials = self._empty(rows, heads * HEAD_SIZE), None
        if parts > 1:
            partials = torch.empty(rows, heads, parts, _PARTIAL, dtype=torch.float32, device=self.device)
        self._launcher.launch(
            *(f"attn_decode<{_STORAGES[pages.storage]}>", (heads, rows, parts), 256, query.contiguous()),
            *(*_of_layer(pages, layer), batch.tables, batch.rows, partials, out),
            math.log2(math.e) / math.sqrt(HEAD_SIZE),
            shared=8 * _PARTIAL * 4,
        )
        if partials is not None:
            launch = self._launcher.launch
            launch("attn_combine", (heads, rows, 1), HEAD_SIZE, partials, batch.rows, out, parts)
        return out

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """By PyTorch's own kernels, which ask for a batch."""
        query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1)

    # -- all layers, and what is drawn ------------------------------------------------------

    def layers(
        self,
        a: Tensor,
        weights: Weights,
        rotary: tuple[Tensor, Tensor],
        batch: PagedRows,
        alpha: float,
        epsilon: float,
    ) -> Tensor | None:
        """Sums go from kernel to kernel unrounded where a matrix is in tiles and there are few rows."""
        if not takes_pages(batch.pages):
            return None
        after = [*(block.input_layernorm for block in weights.blocks[1:]), weights.final_layernorm]
        for layer, (block, last) in enumerate(zip(weights.blocks, after, strict=True)):
            qkv = self._branch(a, block.query_key_value)
            query = self._rope(qkv, rotary, batch.pages, batch.slots, layer)
            y = self._branch(self.attend(query, batch, layer), block.dense)
            m = self._norm(a, y, alpha, block.post_attention_layernorm, epsilon)
            inner = self.linear(m, block.dense_h_to_4h.weight, block.dense_h_to_4h.bias, gelu=True)
            a = self._norm(m, self._branch(inner, block.dense_4h_to_h), alpha, last, epsilon)
        return a

    def sample(
        self, logits: Tensor, parameters: Tensor, seen: Tensor, tokens: Tensor, limit: int, fallback: int
    ) -> None:
        """Draw a token for each row of float32 logits [rows, vocabulary] into int32 `tokens` [rows].

        parameters: int32 [rows, 8] (`model.kernels.sample`); seen: int32 [slots, ceil(vocabulary / 32)], bits
        of the tokens that a penalty is for; limit: tokens that may be drawn; fallback: the one that broken
        logits give, as its complement. The vocabulary is a multiple of four.
        """
        rows, vocabulary = logits.shape
        self._launcher.launch(
            *("sample", (rows, 1, 1), sample.THREADS, logits, parameters, seen, tokens),
            *(vocabulary, limit, fallback),
            shared=sample.SHARED,
        )

    def _branch(self, x: Tensor, linear: Linear) -> Tensor | Sums:
        if isinstance(linear.weight, MmaWeight) and len(x) <= most_rows(linear.weight):
            return self._linear.sums(x, linear.weight, linear.bias)
        return self.linear(x, linear.weight, linear.bias)

    def _kernels(self, weights: Weights, storage: Storage) -> Iterator[str]:
        yield from ("layer_norm", "attn_combine", "add_bias<false>", "add_bias<true>", "sample")
        if storage in _STORAGES:
            yield from (f"rope_kv<{_STORAGES[storage]}>", f"attn_decode<{_STORAGES[storage]}>")
        if isinstance(weights.word_embeddings, MmaWeight):
            yield from self._linear.head_kernels()
        for block in weights.blocks:
            for linear in _linears(block):
                yield from self._linear.kernels(linear.weight)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device=self.device)


def takes_pages(pages: KVPages) -> bool:
    """Whether kernels read and write such pages."""
    return pages.head_size == HEAD_SIZE and pages.storage in _STORAGES


def _linears(block: Block) -> tuple[Linear, ...]:
    return block.query_key_value, block.dense, block.dense_h_to_4h, block.dense_4h_to_h


def _halves(y: Tensor | Sums) -> Tensor:
    return y if isinstance(y, Tensor) else (y.shares.sum(0) + y.bias).half()


def _halves_or_sums(y: Tensor | Sums | None) -> tuple[Argument, Argument, Argument, Argument]:
    """Halves, sums, how many shares they have, bias: what kernels take that go on from a linear layer."""
    if isinstance(y, Sums):
        return None, y.shares, len(y.shares), y.bias
    return None if y is None else y.contiguous(), None, 0, None


def _of_layer(pages: KVPages, layer: int) -> Iterator[Tensor | None]:
    """Data, scales and zeros of a layer."""
    for tensor in (pages.data, pages.scale, pages.zero):
        yield None if tensor is None else tensor[layer]
