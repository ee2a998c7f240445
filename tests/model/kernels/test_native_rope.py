"""Splitting, rotating and keeping of keys and values by the native library: the reference's to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import rotary
from model.kernels.library import Library, Pool
from model.kernels.native import Native
from model.kernels.reference import Reference
from model.kv_cache import KVBatch, KVCache, KVPages, Storage

REFERENCE = Reference(torch.float32)
STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")


def native(library: Library, threads: int = 2, isa: str | None = None) -> Native:
    library.use(isa or library.isas[0])
    return Native(library, Pool(library, threads, spin_us=1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tables(tokens: int, axes: int, part: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(tokens * axes).view(tokens, axes)
    return rotary.tables(positions, rotary.frequencies(part))


def pages_like(pages: KVPages) -> KVPages:
    layers = pages.data.shape[0]
    other = KVPages(
        pages.count, layers=layers, heads=pages.heads, head_size=pages.head_size, storage=pages.storage
    )
    for mine, theirs in zip(_tensors(other), _tensors(pages), strict=True):
        mine.copy_(theirs)
    return other


def _tensors(pages: KVPages) -> list[Tensor]:
    return [tensor for tensor in (pages.data, pages.scale, pages.zero) if tensor is not None]


def check_same(
    operations: Native, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor
) -> None:
    """Results and everything in the pages, what was there before included."""
    for number, tensor in enumerate(_tensors(pages)):
        tensor.copy_(noise(*tensor.shape, seed=number) * 50)
    theirs = pages_like(pages)
    ours = operations.rope_kv(qkv, cos, sin, pages, slots, 1)
    expected = REFERENCE.rope_kv(qkv, cos, sin, theirs, slots, 1)
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=0, rtol=0, equal_nan=True)
    for mine, other in zip(_tensors(pages), _tensors(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=0, rtol=0, equal_nan=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    storage=st.sampled_from(STORAGES),
    before=st.integers(0, 40),
    tokens=st.integers(1, 40),
    heads=st.integers(1, 4),
    axes=st.sampled_from([1, 2]),
    half=st.integers(1, 33),
    exponent=st.integers(-9, 9),
)
def test_heads_of_any_size_anywhere(
    library: Library,
    storage: Storage,
    before: int,
    tokens: int,
    heads: int,
    axes: int,
    half: int,
    exponent: int,
) -> None:
    size = axes * 2 * half
    pages = KVPages(8, layers=2, heads=heads, head_size=size, storage=storage)
    cache = KVCache(pages)
    cache.reserve(before)
    cache.length = before
    slots = KVBatch([cache], [tokens]).slots
    qkv = noise(tokens, heads * 3 * size) * 10.0**exponent
    check_same(native(library), qkv, *tables(tokens, axes, 2 * half), pages, slots)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("isa", [0, -1])
def test_extreme_numbers_are_kept_as_the_reference_keeps_them(
    library: Library, storage: Storage, isa: int
) -> None:
    size, kinds = 32, torch.tensor([0.0, 1.0, -3.5, 65_504.0, 65_520.0, 1e30, 1e-7, 1e-45, -1e-8])
    pages = KVPages(2, layers=2, heads=1, head_size=size, storage=storage)
    slots = KVBatch([KVCache(pages)], [2 * len(kinds)]).slots
    constant = kinds[:, None].expand(-1, 3 * size)
    mixed = constant * noise(len(kinds), 3 * size)
    qkv = torch.cat((constant, mixed))
    cos, sin = torch.ones(len(qkv), 1, size // 2), torch.zeros(len(qkv), 1, size // 2)
    check_same(native(library, isa=library.isas[isa]), qkv, cos, sin, pages, slots)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_does_not_come_back_as_a_number(
    library: Library, storage: Storage, bad: float
) -> None:
    size = 20
    pages = KVPages(1, layers=2, heads=2, head_size=size, storage=storage)
    batch = KVBatch([cache := KVCache(pages)], [1])
    qkv = noise(1, 2 * 3 * size)
    qkv[0, size + 3] = bad  # a key of head 0
    cos, sin = torch.ones(1, 1, size // 2), torch.zeros(1, 1, size // 2)
    native(library).rope_kv(qkv, cos, sin, pages, batch.slots, 1)
    key, value = pages.read(1, cache.indices, 1, torch.float32)
    assert not key[0, 0, 3].isfinite()
    assert key[1].isfinite().all()
    assert value.isfinite().all()


@pytest.mark.parametrize("storage", STORAGES)
def test_every_instruction_set_and_number_of_threads_does_the_same(
    library: Library, storage: Storage
) -> None:
    pages = KVPages(4, layers=2, heads=3, head_size=72, storage=storage)
    slots = KVBatch([KVCache(pages)], [50]).slots
    for isa in library.isas:
        for threads in (1, 3):
            cos, sin = tables(50, 2, 36)
            check_same(native(library, threads, isa), noise(50, 3 * 3 * 72), cos, sin, pages, slots)
