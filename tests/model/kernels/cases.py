"""Inputs at the edges of what the kernels take, as cases that any implementation of operations computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from hypothesis import strategies as st
from torch import Tensor

from model.kv_cache import KVBatch, KVCache, KVPages, Storage
from model.quantize import QuantizedWeight, pack_int4
from model.tiles import TiledWeight, to_tiles
from model.weights import Norm

Bits = Literal[4, 8]
STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")
LARGEST = torch.finfo(torch.float32).max
FINITE = (
    0.0,
    -0.0,
    3e38,
    -3e38,
    1e-45,
    -1e-45,
    1e-38,
    -1e-38,
    1e-30,
    0.99e-30,
    65_504.0,
    65_520.0,
    6e-8,
    2e-8,
)
NOT_FINITE = (torch.nan, torch.inf, -torch.inf)


class Operations(Protocol):
    """The operations that cases are made of, as `model.kernels.native.Native` has them."""

    def linear(
        self, x: Tensor, weight: TiledWeight, bias: Tensor | None = None, *, gelu: bool = False
    ) -> Tensor: ...
    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor: ...
    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor: ...
    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor: ...
    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


Make = Callable[[bool], Operations]
"""Operations with float activations where matrices are quantised (True), or with integers."""
Case = Callable[[Make], list[Tensor]]


def same_bits(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether they are equal to the bit, signs of zeros included; which NaN it is does not matter."""
    return all(_bits(x).equal(_bits(y)) for x, y in zip(results, expected, strict=True))


def _bits(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    kind = torch.int32 if x.dtype == torch.float32 else torch.int16
    return torch.where(x.isnan(), torch.full_like(x, torch.nan), x).view(kind)


# -- numbers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Random tensors: rows of very different magnitudes, with special numbers strewn in.

    halves_to: multiples of a half up to this one instead, between two codes where the steps of codes are 1.
    """

    seed: int
    exponents: tuple[int, ...] = (0,)
    special: tuple[float, ...] = ()
    halves_to: int = 0

    def __call__(self, *shape: int, offset: int = 0) -> Tensor:
        random = torch.Generator().manual_seed(self.seed + offset)
        exponent = torch.tensor(self.exponents)[
            torch.randint(len(self.exponents), shape[:1], generator=random)
        ]
        x = torch.randn(*shape, generator=random).double()
        x *= 10.0 ** exponent.double().view(-1, *(1,) * (len(shape) - 1))
        x = x.clamp(-LARGEST, LARGEST).float()
        if self.halves_to:
            sign = x.sign() if self.halves_to == 127 else 1
            x = torch.randint(2 * self.halves_to + 1, shape, generator=random) / 2
            x.view(-1)[::8], x.view(-1)[1::8] = self.halves_to, 0
            x *= sign
        for value in self.special:
            x.view(-1)[int(torch.randint(x.numel(), (1,), generator=random))] = value
        return x


def plain(seed: int = 0) -> Numbers:
    """Of a normal distribution, and nothing else."""
    return Numbers(seed)


seeds = st.integers(0, 2**31)
numbers = st.builds(
    Numbers,
    seeds,
    st.sampled_from([(0,), (-1, 0, 1), (-7, 4), (-45, -38, -30, 0), (18, 38), (-45, -30, -7, 0, 18, 38)]),
    st.sampled_from([(), FINITE, NOT_FINITE + FINITE, *((value,) for value in NOT_FINITE)]),
) | st.builds(Numbers, seeds, halves_to=st.sampled_from([15, 127]))  # INT4 with a zero-point of 0, INT8


# -- linear layers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """A quantised matrix, and rows that meet it."""

    x: Tensor
    weight: TiledWeight
    bias: Tensor | None
    gelu: bool
    exact: bool

    def __call__(self, make: Make) -> list[Tensor]:
        return [make(self.exact).linear(self.x, self.weight, self.bias, gelu=self.gelu)]


def matrix(
    bits: Bits,
    group: int,
    out: int,
    columns: int,
    *,
    codes: Literal["any", "lowest", "highest"] = "any",
    zeros: bool = False,
    extreme: bool = False,
    seed: int = 0,
) -> TiledWeight:
    """A third of the groups hold nothing; `extreme`: scales and zero-points at the ends of float16 too."""
    random, end = torch.Generator().manual_seed(seed), 2 ** (bits - 1)
    low, high = {"any": (-end, end), "lowest": (-end, 1 - end), "highest": (end - 1, end)}[codes]
    integers = torch.randint(low, high, (out, columns), dtype=torch.int8, generator=random)
    scale = (torch.randn(out, -(-columns // group), generator=random) * 0.01).half()
    zero = (torch.rand(scale.shape, generator=random) * 6 - 3).half() if zeros else None
    if extreme:
        for tensor in (scale, zero):
            if tensor is not None:
                tensor.view(-1)[::7], tensor.view(-1)[3::7] = 6e-8, -65_504.0
    empty = torch.rand(scale.shape, generator=random) < 0.3
    scale[empty] = 0
    integers[empty.repeat_interleave(group, 1)[:, :columns]] = 0
    packed = pack_int4(integers) if bits == 4 else integers
    return to_tiles(QuantizedWeight(bits, group, columns, packed, scale, zero))


kinds = st.sampled_from([(4, 32), (4, 64), (4, 96), (4, 128), (4, 4_096), (8, 64), (8, 4_096)])
matrices = st.builds(
    lambda kind, shape, **options: matrix(*kind, *shape, **options),
    kinds,
    st.tuples(st.integers(1, 70), st.integers(1, 300))
    | st.tuples(st.integers(1, 20), st.integers(1_000, 2_200)),  # columns that are cut where rows are many
    codes=st.sampled_from(["any", "any", "lowest", "highest"]),
    zeros=st.booleans(),
    extreme=st.booleans(),
    seed=seeds,
)
linears = st.builds(
    lambda weight, rows, make, bias, gelu, exact: Linear(
        make(rows, weight.in_features),
        weight,
        make(weight.out_features, offset=1) if bias else None,
        gelu,
        exact,
    ),
    matrices,
    st.integers(1, 40),
    numbers,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


# -- norms -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerNorm:
    """Rows, and what they are added to."""

    x: Tensor
    y: Tensor | None
    alpha: float
    norm: Norm

    def __call__(self, make: Make) -> list[Tensor]:
        if self.y is None:
            return [make(False).norm(self.x, self.norm, 1e-5)]
        return [make(False).residual_norm(self.x, self.y, self.alpha, self.norm, 1e-5)]


norms = st.builds(
    lambda make, rows, width, residual, alpha: LayerNorm(
        make(rows, width),
        make(rows, width, offset=1) if residual else None,
        alpha,
        Norm(make(width, offset=2), make(width, offset=3)),
    ),
    numbers,
    st.integers(1, 20),
    st.integers(1, 300),
    st.booleans(),
    st.sampled_from([1.0, 7.483315, -0.5]),
)


# -- attention ---------------------------------------------------------------------------------


def pages_of(count: int, heads: int, size: int, storage: Storage, byte: int) -> KVPages:
    """Pages of two layers with one byte all over."""
    pages = KVPages(count, layers=2, heads=heads, head_size=size, storage=storage)
    for tensor in tensors(pages):
        tensor.view(torch.uint8).fill_(byte)
    return pages


def tensors(pages: KVPages) -> list[Tensor]:
    """What pages consist of."""
    return [tensor for tensor in (pages.data, pages.scale, pages.zero) if tensor is not None]


@dataclass(frozen=True)
class Attention:
    """New tokens of sequences whose keys and values are in pages; slots of no token hold NaN."""

    query: Tensor
    batch: KVBatch

    def __call__(self, make: Make) -> list[Tensor]:
        return [make(False).attention(self.query, self.batch, 1)]


def attention(
    storage: Storage,
    heads: int,
    size: int,
    lengths: Sequence[tuple[int, int]],
    query: Numbers,
    stored: Numbers,
) -> Attention:
    """lengths: how many tokens of a sequence are there, and how many come."""
    pages = pages_of(sum(sum(pair) // 16 + 1 for pair in lengths), heads, size, storage, 255)
    caches = [KVCache(pages) for _ in lengths]
    for stage in range(2):
        batch = KVBatch(caches, [pair[stage] for pair in lengths])
        if len(batch.slots):
            shape = (len(batch.slots), heads, size)
            pages.write(
                1, batch.slots, stored(*shape, offset=2 * stage), stored(*shape, offset=2 * stage + 1)
            )
        if stage == 0:
            batch.commit()
    return Attention(query(sum(batch.lengths), heads, size), batch)


storages = st.sampled_from(STORAGES)
attentions = st.builds(
    lambda storage, heads, half, odd, *rest: attention(
        storage, heads, 2 * half - (odd and storage != "int4"), *rest
    ),
    storages,
    st.integers(1, 3),
    st.integers(1, 70) | st.just(64),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 560), st.sampled_from([1, 1, 2, 15, 16, 40])), min_size=1, max_size=3),
    numbers,
    numbers,
)


@dataclass(frozen=True)
class ContextAttention:
    """Queries of a prompt, and what they all see."""

    query: Tensor
    key: Tensor
    value: Tensor

    def __call__(self, make: Make) -> list[Tensor]:
        return [make(False).context_attention(self.query, self.key, self.value)]


contexts = st.builds(
    lambda query, stored, queries, tokens, heads, size: ContextAttention(
        query(queries, heads, size), stored(tokens, heads, size), stored(tokens, heads, size, offset=1)
    ),
    numbers,
    numbers,
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 2),
    st.integers(1, 70) | st.just(128),
)


@dataclass(frozen=True)
class RopeKV:
    """Tokens that are rotated and kept; results are all that the pages hold afterwards, too."""

    qkv: Tensor
    cos: Tensor
    sin: Tensor
    heads: int
    storage: Storage

    def __call__(self, make: Make) -> list[Tensor]:
        tokens, size = len(self.qkv), self.qkv.shape[1] // (3 * self.heads)
        pages = pages_of(tokens // 16 + 2, self.heads, size, self.storage, 0x55)
        (cache := KVCache(pages)).reserve(5)
        cache.length = 5
        slots = KVBatch([cache], [tokens]).slots
        return [*make(False).rope_kv(self.qkv, self.cos, self.sin, pages, slots, 1), *tensors(pages)]


def rope(
    storage: Storage, heads: int, axes: int, half: int, tokens: int, numbers: Numbers, *, still: bool
) -> RopeKV:
    """still: nothing is rotated, so that numbers arrive as they are."""
    angles = plain()(tokens, axes, half) * (0 if still else 3)
    return RopeKV(numbers(tokens, heads * 3 * axes * 2 * half), angles.cos(), angles.sin(), heads, storage)


ropes = st.builds(
    rope,
    storages,
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.integers(1, 33),
    st.integers(1, 40),
    numbers,
    still=st.booleans(),
)
