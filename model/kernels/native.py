"""The operations of the network by the native library: float32 activations, quantised matrices in tiles."""

from __future__ import annotations

from ctypes import Array, byref
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from model.kernels.library import GlmBlock, GlmMatrix, GlmPages, Library, Pool
from model.kernels.reference import Reference
from model.kv_cache import KVBatch, KVPages, Storage
from model.tiles import TiledWeight, fits, to_tiles
from model.weights import Matrix, Norm, Weights, in_rows

_EXACT, _GELU = 1, 2
_STORAGES: dict[Storage, int] = {"float32": 0, "float16": 1, "int8": 2, "int4": 3}


class Native:
    """`Operations` on the CPU, without gradients; matrices not in tiles are left to the reference."""

    def __init__(self, library: Library, pool: Pool, *, exact: bool = False) -> None:
        """`exact`: activations stay floats where they meet quantised matrices."""
        self.dtype = torch.float32
        self.exact = exact
        self._library = library
        self._pool = pool
        self._c = library.c
        self._reference = Reference(torch.float32, exact)
        self._described: WeakKeyDictionary[KVPages, GlmPages] = WeakKeyDictionary()
        self._network: tuple[Weights, Array[GlmBlock] | None] | None = None

    @property
    def name(self) -> str:
        """With the instruction set in use, and how many threads."""
        threads = self._pool.threads
        return f"native {self._library.isa}, {threads} thread{'s' if threads > 1 else ''}"

    def prepare(self, weight: Matrix) -> Matrix:
        """In tiles where they can hold the matrix, else as it is stored."""
        if isinstance(weight, TiledWeight):
            return weight
        rows = in_rows(weight)
        return rows if isinstance(rows, Tensor) or not fits(rows) else to_tiles(rows)

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """x W^T + b, with x as int8 in each block of columns unless exact."""
        if not isinstance(weight, TiledWeight):
            return self._reference.linear(x, weight, bias, gelu=gelu)
        x, bias = _floats(x), None if bias is None else _floats(bias)
        rows = x.shape[0]
        y = torch.empty(rows, weight.out_features)
        flags = (_EXACT if self.exact else 0) | (_GELU if gelu else 0)
        matrix = _describe(weight, bias)
        self._c.glm_linear(self._pool.handle, byref(matrix), x.data_ptr(), rows, y.data_ptr(), flags)
        return y

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of the embedding."""
        if not isinstance(table, TiledWeight):
            return self._reference.embed(ids, table)
        ids, y = ids.contiguous(), torch.empty(len(ids), table.in_features)
        self._c.glm_embed(byref(_describe(table, None)), ids.data_ptr(), len(ids), y.data_ptr())
        return y

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm."""
        return self._norm(_floats(x), None, 1.0, norm, epsilon)

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        """LayerNorm of alpha x + y."""
        return self._norm(_floats(x), _floats(y), alpha, norm, epsilon)

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split, rotate, and write keys and values into their pages."""
        qkv, cos, sin, slots = _floats(qkv), _floats(cos), _floats(sin), slots.contiguous()
        tokens, shape = qkv.shape[0], (qkv.shape[0], pages.heads, pages.head_size)
        query, key, value = torch.empty(shape), torch.empty(shape), torch.empty(shape)
        self._c.glm_rope_kv(
            self._pool.handle,
            self._pages(pages),
            layer,
            qkv.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            cos.shape[1],
            slots.data_ptr(),
            tokens,
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
        )
        return query, key, value

    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor:
        """Straight from the pages; the same bits in any number of threads."""
        query, out = _floats(query), torch.empty(query.shape[0], query.shape[1] * query.shape[2])
        self._c.glm_attention(
            self._pool.handle,
            self._pages(batch.pages),
            layer,
            query.data_ptr(),
            batch.tables.data_ptr(),
            batch.sequences.data_ptr(),
            len(batch.lengths),
            out.data_ptr(),
        )
        return out

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """In tiles of queries."""
        query, key, value = _floats(query), _floats(key), _floats(value)
        new, heads, head_size = query.shape
        out = torch.empty(new, heads * head_size)
        self._c.glm_context_attention(
            self._pool.handle,
            query.data_ptr(),
            new,
            key.data_ptr(),
            value.data_ptr(),
            key.shape[0],
            heads,
            head_size,
            out.data_ptr(),
        )
        return out

    def layers(
        self,
        a: Tensor,
        weights: Weights,
        rotary: tuple[Tensor, Tensor],
        batch: KVBatch,
        alpha: float,
        epsilon: float,
    ) -> Tensor | None:
        """In one call where all matrices are in tiles: Python between them would cost some percent."""
        blocks = self._blocks_of(weights)
        if blocks is None:
            return None
        a, cos, sin = _floats(a), _floats(rotary[0]), _floats(rotary[1])
        tokens, hidden = a.shape
        inner = weights.blocks[0].dense_h_to_4h.bias.shape[0]
        space, out = torch.empty(tokens * (3 * hidden + max(3 * hidden, inner))), torch.empty(tokens, hidden)
        self._c.glm_layers(
            self._pool.handle,
            blocks,
            len(blocks),
            self._pages(batch.pages),
            cos.data_ptr(),
            sin.data_ptr(),
            cos.shape[1],
            batch.slots.data_ptr(),
            batch.tables.data_ptr(),
            batch.sequences.data_ptr(),
            len(batch.lengths),
            alpha,
            epsilon,
            _EXACT if self.exact else 0,
            a.data_ptr(),
            tokens,
            space.data_ptr(),
            out.data_ptr(),
        )
        return out

    def _norm(self, x: Tensor, y: Tensor | None, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        weight, bias = _floats(norm.weight), _floats(norm.bias)
        out = torch.empty(x.shape)
        self._c.glm_norm(
            self._pool.handle,
            x.data_ptr(),
            None if y is None else y.data_ptr(),
            alpha,
            weight.data_ptr(),
            bias.data_ptr(),
            epsilon,
            x.shape[0],
            x.shape[1],
            out.data_ptr(),
        )
        return out

    def _blocks_of(self, weights: Weights) -> Array[GlmBlock] | None:
        """What the library knows the layers by, made once; None where not all of them can be told."""
        if self._network is None or self._network[0] is not weights:
            self._network = weights, _describe_blocks(weights)
        return self._network[1]

    def _pages(self, pages: KVPages) -> GlmPages:
        """What the library knows pages by; their memory never moves."""
        known = self._described.get(pages)
        if known is None:
            known = self._described[pages] = GlmPages(
                pages.data.data_ptr(),
                None if pages.scale is None else pages.scale.data_ptr(),
                None if pages.zero is None else pages.zero.data_ptr(),
                pages.count,
                _STORAGES[pages.storage],
                pages.heads,
                pages.head_size,
            )
        return known


def _floats(x: Tensor) -> Tensor:
    """As the library reads it; itself where it is so already."""
    return x if x.dtype is torch.float32 and x.is_contiguous() else x.float().contiguous()


def _describe(weight: TiledWeight, bias: Tensor | None) -> GlmMatrix:
    """What the library knows a matrix by, in a few microseconds; it holds neither."""
    _, blocks, _ = weight.packed.shape
    return GlmMatrix(
        weight.packed.data_ptr(),
        weight.scale.data_ptr(),
        None if weight.zero is None else weight.zero.data_ptr(),
        None if bias is None else bias.data_ptr(),
        weight.bits,
        weight.block,
        blocks,
        weight.group_blocks,
        weight.scale.shape[1],
        weight.out_features,
        weight.in_features,
    )


def _describe_blocks(weights: Weights) -> Array[GlmBlock] | None:
    """None where a matrix is not in tiles or a vector is not as the library reads it."""
    described = []
    following = [*(block.input_layernorm for block in weights.blocks[1:]), weights.final_layernorm]
    for block, after in zip(weights.blocks, following, strict=True):
        matrices = []
        for linear in (block.query_key_value, block.dense, block.dense_h_to_4h, block.dense_4h_to_h):
            if not isinstance(linear.weight, TiledWeight) or _floats(linear.bias) is not linear.bias:
                return None
            matrices.append(_describe(linear.weight, linear.bias))
        norm = block.post_attention_layernorm
        vectors = (norm.weight, norm.bias, after.weight, after.bias)
        if any(_floats(vector) is not vector for vector in vectors):
            return None
        described.append(GlmBlock(*matrices, *(vector.data_ptr() for vector in vectors)))
    return (GlmBlock * len(described))(*described)
