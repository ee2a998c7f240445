"""The operations of the network by the kernels of cuda/: float16 activations, matrices in MMA tiles.

Results of a row do not hang on what else is in the batch: columns and sequences are cut in the same places
for any number of rows, and partial sums are added in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.launcher import Argument, Launcher
from model.kernels.reference import Reference
from model.kv_cache import KVPages, Storage
from model.mma_tiles import MmaWeight, fits, to_mma
from model.weights import Block, Linear, Matrix, Norm, Weights, in_rows

ROWS = 64
"""Of x that a linear kernel takes at once."""
DEQUANTIZE_FROM = 129
"""Rows from which a matrix in float16 and cuBLAS are faster than its integers, read for every 64 rows."""
HEAD_SIZE = 128
PART = 256
"""Tokens of a sequence that a block of attention takes (cuda/attn_decode.cu)."""
_PARTIAL = HEAD_SIZE + 2
_NORM_THREADS = 512
_STAGES = {1: 4, 2: 3, 4: 3, 8: 2}
"""Copies ahead, by tiles of 8 rows: what leaves room for two blocks a multiprocessor at least."""
_STORAGES: dict[Storage, int] = {"float16": 0, "int8": 1, "int4": 2}


@dataclass(frozen=True, slots=True)
class Sums:
    """What a linear layer gives unrounded: float32 [shares, rows, out], to be added up, and its bias."""

    shares: Tensor
    bias: Tensor


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


class Fused:
    """`Operations` on a graphics card, without gradients; what no kernel takes is left to the reference."""

    dtype = torch.float16
    exact = False

    def __init__(self, launcher: Launcher, device: torch.device) -> None:
        self._launcher = launcher
        self._device = device
        self._reference = Reference(torch.float16)

    @property
    def name(self) -> str:
        """With the card's name."""
        return f"cuda kernels, {self._launcher.name}"

    def prepare(self, weight: Matrix) -> Matrix:
        """In MMA tiles where they can hold the matrix, else in rows; it may lie on the device already."""
        if isinstance(weight, MmaWeight) and _takes(weight):
            return weight
        rows = in_rows(weight)
        if isinstance(rows, Tensor) or not fits(rows):
            return rows
        tiled = to_mma(rows)
        return tiled if _takes(tiled) else rows

    # -- linear layers ----------------------------------------------------------------------

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """x W^T + b; logits, which have no bias, in float32."""
        if not isinstance(weight, MmaWeight):
            return self._reference.linear(x, weight, bias, gelu=gelu)
        if bias is None and weight.bits == 8:
            return torch.cat([self._logits(part, weight) for part in torch.split(x, ROWS)])
        if len(x) >= DEQUANTIZE_FROM:
            y = functional.linear(x, self.dequantize(weight), bias)
            return functional.gelu(y, approximate="tanh") if gelu else y
        bias = x.new_zeros(weight.out_features) if bias is None else bias
        parts = [self._dense(part, weight, bias, gelu) for part in torch.split(x, _most_rows(weight))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def dequantize(self, weight: MmaWeight) -> Tensor:
        """The matrix in float16 [out, in]."""
        y = torch.empty(weight.out_features, weight.in_features, dtype=torch.float16, device=self._device)
        tiles = weight.in_features // 64
        self._launcher.launch(
            f"dequantize<{weight.bits}, {_bool(weight.zero is not None)}>",
            (-(-tiles // 8), weight.out_features // 16, 1),
            256,
            weight.packed,
            weight.scale,
            weight.zero,
            y,
            weight.out_features,
            weight.in_features,
            _shift(weight),
            shared=8 * 16 * 72 * 2,
        )
        return y

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of the embedding."""
        if not isinstance(table, MmaWeight):
            return self._reference.embed(ids, table)
        y = torch.empty(len(ids), table.in_features, dtype=torch.float16, device=self._device)
        if len(ids):
            grid = (len(ids), 1, 1)
            self._launcher.launch("embed", grid, 256, ids, table.packed, table.scale, y, table.in_features)
        return y

    def _logits(self, x: Tensor, weight: MmaWeight) -> Tensor:
        rows, tiles = len(x), _tiles(len(x))
        y = torch.empty(rows, weight.out_features, dtype=torch.float32, device=self._device)
        stages = self._stages(tiles, 8)
        self._launcher.launch(
            f"head_logits<{tiles}, {stages}>",
            (-(-weight.out_features // 64), 1, 1),
            256,
            x.contiguous(),
            weight.packed,
            weight.scale,
            y,
            rows,
            weight.out_features,
            weight.in_features,
            shared=_linear_shared(8, tiles, stages),
        )
        return y

    def _dense(self, x: Tensor, weight: MmaWeight, bias: Tensor, gelu: bool) -> Tensor:
        """x W^T + b for few rows."""
        blocks = -(-weight.out_features // 64)
        if gelu and blocks >= self._launcher.multiprocessors:
            y = torch.empty(len(x), weight.out_features, dtype=torch.float16, device=self._device)
            self._multiply("linear_gelu", x, weight, 1, (bias, y))
            return y
        sums = self._sums(x, weight)
        y = torch.empty(len(x), weight.out_features, dtype=torch.float16, device=self._device)
        grid = (-(-weight.out_features // 1024), len(x), 1)
        self._launcher.launch(
            f"add_bias<{_bool(gelu)}>", grid, 256, sums, len(sums), bias, y, weight.out_features
        )
        return y

    def _sums(self, x: Tensor, weight: MmaWeight) -> Tensor:
        """x W^T as float32 sums of shares of the columns, [shares, rows, out]."""
        shares = self._shares(weight)
        sums = torch.empty(shares, len(x), weight.out_features, dtype=torch.float32, device=self._device)
        self._multiply("linear_sums", x, weight, shares, (sums,))
        return sums

    def _multiply(
        self, kernel: str, x: Tensor, weight: MmaWeight, shares: int, out: tuple[Tensor, ...]
    ) -> None:
        tiles = _tiles(len(x))
        stages = self._stages(tiles, weight.bits)
        self._launcher.launch(
            f"{kernel}{_arguments(weight, tiles, stages)}",
            (-(-weight.out_features // 64), shares, 1),
            256,
            x.contiguous(),
            weight.packed,
            weight.scale,
            weight.zero,
            *out,
            len(x),
            weight.out_features,
            weight.in_features,
            _shift(weight),
            shared=_linear_shared(weight.bits, tiles, stages),
        )

    def _shares(self, weight: MmaWeight) -> int:
        """Parts that the columns are cut into: enough blocks for the card, each with enough to read.

        It must not hang on the rows of x: the same sum would have other bits in another batch.
        """
        blocks, steps, shares = -(-weight.out_features // 64), weight.in_features // 128, 1
        while blocks * shares < 2 * self._launcher.multiprocessors and shares < 8 and steps >= 8 * shares:
            shares *= 2
        return shares

    def _stages(self, tiles: int, bits: int) -> int:
        """Before compute capability 8.0 nothing is copied ahead, so one stage is filled and one in use."""
        return 2 if self._launcher.arch < 80 else min(_STAGES[tiles], 3 if bits == 8 else 4)

    # -- norms ------------------------------------------------------------------------------

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm."""
        return self._norm(x, None, 1.0, norm, epsilon)

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm of alpha x + y in float32."""
        return self._norm(x, y, alpha, norm, epsilon)

    def _norm(self, x: Tensor, y: Tensor | Sums | None, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        rows, width = x.shape
        out = torch.empty(rows, width, dtype=torch.float16, device=self._device)
        if rows:
            shared = 4 * (width + _NORM_THREADS // 32)
            self._launcher.launch(
                "layer_norm", (rows, 1, 1), _NORM_THREADS, x.contiguous(), *_halves_or_sums(y),
                norm.weight, norm.bias, out, width, alpha, epsilon, shared=shared,
            )  # fmt: skip
        return out

    # -- attention --------------------------------------------------------------------------

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split, rotate, and write keys and values into their pages."""
        if not _takes_pages(pages):
            return self._reference.rope_kv(qkv, cos, sin, pages, slots, layer)
        shape = (len(qkv), pages.heads, pages.head_size)
        key, value = (torch.empty(shape, dtype=torch.float16, device=self._device) for _ in range(2))
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
        query = torch.empty(rows, pages.heads, HEAD_SIZE, dtype=torch.float16, device=self._device)
        if rows:
            self._launcher.launch(
                f"rope_kv<{_STORAGES[pages.storage]}>", (rows, -(-pages.heads // 4), 1), 128,
                *_halves_or_sums(qkv), cos, sin, axes, slots.contiguous(), *_of_layer(pages, layer),
                query, *kept, pages.heads,
            )  # fmt: skip
        return query

    def attention(self, query: Tensor, batch: PagedRows, layer: int) -> Tensor:
        """Straight from the pages."""
        pages = batch.pages
        rows, heads, _ = query.shape
        parts = -(-batch.longest // PART)
        out = torch.empty(rows, heads * HEAD_SIZE, dtype=torch.float16, device=self._device)
        partials = None
        if parts > 1:
            partials = torch.empty(rows, heads, parts, _PARTIAL, dtype=torch.float32, device=self._device)
        self._launcher.launch(
            f"attn_decode<{_STORAGES[pages.storage]}>",
            (heads, rows, parts),
            256,
            query.contiguous(),
            *_of_layer(pages, layer),
            batch.tables,
            batch.rows,
            partials,
            out,
            math.log2(math.e) / math.sqrt(HEAD_SIZE),
            shared=8 * _PARTIAL * 4,
        )
        if partials is not None:
            self._launcher.launch(
                "attn_combine", (heads, rows, 1), HEAD_SIZE, partials, batch.rows, out, parts
            )
        return out

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """By PyTorch's own kernels, which ask for a batch."""
        query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1)

    # -- all layers -------------------------------------------------------------------------

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
        if not _takes_pages(batch.pages):
            return None
        after = [*(block.input_layernorm for block in weights.blocks[1:]), weights.final_layernorm]
        for layer, (block, last) in enumerate(zip(weights.blocks, after, strict=True)):
            qkv = self._branch(a, block.query_key_value)
            query = self._rope(qkv, rotary, batch.pages, batch.slots, layer)
            y = self._branch(self.attention(query, batch, layer), block.dense)
            m = self._norm(a, y, alpha, block.post_attention_layernorm, epsilon)
            inner = self.linear(m, block.dense_h_to_4h.weight, block.dense_h_to_4h.bias, gelu=True)
            a = self._norm(m, self._branch(inner, block.dense_4h_to_h), alpha, last, epsilon)
        return a

    def _branch(self, x: Tensor, linear: Linear) -> Tensor | Sums:
        if isinstance(linear.weight, MmaWeight) and len(x) <= _most_rows(linear.weight):
            return Sums(self._sums(x, linear.weight), linear.bias)
        return self.linear(x, linear.weight, linear.bias)

    def kernels(self, weights: Weights, storage: Storage) -> Iterator[str]:
        """Those that answers over such weights and pages will need, for `Launcher.prepare`."""
        yield from ("layer_norm", "embed", "attn_combine", "add_bias<false>", "add_bias<true>")
        if storage in _STORAGES:
            yield from (f"rope_kv<{_STORAGES[storage]}>", f"attn_decode<{_STORAGES[storage]}>")
        linears = [linear.weight for block in weights.blocks for linear in _linears(block)]
        tiled = [weight for weight in linears if isinstance(weight, MmaWeight)]
        for tiles in _STAGES:
            if isinstance(weights.word_embeddings, MmaWeight):
                yield f"head_logits<{tiles}, {self._stages(tiles, 8)}>"
            for weight in tiled:
                if tiles * 8 <= _most_rows(weight):
                    arguments = _arguments(weight, tiles, self._stages(tiles, weight.bits))
                    yield from (f"linear_sums{arguments}", f"linear_gelu{arguments}")
        for weight in tiled:
            yield f"dequantize<{weight.bits}, {_bool(weight.zero is not None)}>"


def _takes(weight: MmaWeight) -> bool:
    """Whether kernels can read it: INT8 of one scale a row, INT4 of that or groups of a power of two."""
    if weight.group_size >= weight.in_features:
        return True
    return weight.bits == 4 and weight.group_size & (weight.group_size - 1) == 0


def _takes_pages(pages: KVPages) -> bool:
    return pages.head_size == HEAD_SIZE and pages.storage in _STORAGES


def _linears(block: Block) -> tuple[Linear, Linear, Linear, Linear]:
    """In the order in which they are computed."""
    return block.query_key_value, block.dense, block.dense_h_to_4h, block.dense_4h_to_h


def _most_rows(weight: MmaWeight) -> int:
    """Rows of x that kernels take at once: zero-points need registers."""
    return ROWS if weight.zero is None else ROWS // 2


def _tiles(rows: int) -> int:
    """Of 8 rows of x, as many as there is a kernel for."""
    return next(tiles for tiles in _STAGES if rows <= 8 * tiles)


def _arguments(weight: MmaWeight, tiles: int, stages: int) -> str:
    """Of the templates of cuda/w4_linear.cu."""
    narrow = weight.group_size == 32
    return f"<{weight.bits}, {_bool(narrow)}, {_bool(weight.zero is not None)}, {tiles}, {stages}>"


def _linear_shared(bits: int, tiles: int, stages: int) -> int:
    """Bytes of all stages: 64 x 128 weights and rows of x, each 8 halves longer for the sake of ldmatrix."""
    return stages * (64 * 128 * bits // 8 + tiles * 8 * (128 + 8) * 2)


def _shift(weight: MmaWeight) -> int:
    """2^shift columns share a scale."""
    return 31 if weight.group_size >= weight.in_features else weight.group_size.bit_length() - 1


def _halves_or_sums(y: Tensor | Sums | None) -> tuple[Argument, Argument, Argument, Argument]:
    """Halves, sums, how many shares they have, bias: what kernels take that go on from a linear layer."""
    if isinstance(y, Sums):
        return None, y.shares, len(y.shares), y.bias
    return None if y is None else y.contiguous(), None, 0, None


def _of_layer(pages: KVPages, layer: int) -> Iterator[Tensor | None]:
    """Data, scales and zeros of a layer."""
    for tensor in (pages.data, pages.scale, pages.zero):
        yield None if tensor is None else tensor[layer]


def _bool(value: bool) -> str:
    return "true" if value else "false"
