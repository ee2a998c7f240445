"""Pages: who owns them, and what is left of keys and values in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from torch import Tensor

from model.kv_cache import (
    PAGE,
    KVBatch,
    KVCache,
    KVPages,
    OutOfPages,
    Storage,
    choose_storage,
    page_bytes,
    page_count,
)
from model.types import KVType

LAYERS, HEADS, SIZE = 2, 3, 8
TOKENS = st.sampled_from([0, 1, 15, 16, 17, 33])
STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")


def pool(count: int, storage: Storage = "float32") -> KVPages:
    return KVPages(count, layers=LAYERS, heads=HEADS, head_size=SIZE, storage=storage)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def append(caches: list[KVCache], new: list[Tensor]) -> None:
    """One pass that leaves new[i] [layers, 2, tokens, heads, head size] in cache i."""
    batch = KVBatch(caches, [part.shape[2] for part in new])
    together = torch.cat(new, dim=2)
    for layer in range(LAYERS):
        batch.pages.write(layer, batch.slots, together[layer, 0], together[layer, 1])
    batch.commit()


def contents(cache: KVCache) -> Tensor:
    """All that is in it, [layers, 2, tokens, heads, head size]."""
    layers = [
        torch.stack(cache.pages.read(layer, cache.indices, cache.length, torch.float32))
        for layer in range(LAYERS)
    ]
    return torch.stack(layers).transpose(2, 3)


class Owners(RuleBasedStateMachine):
    """Sequences come, grow, fork and go; every page is free or counted for exactly its sequences."""

    caches = Bundle("caches")

    def __init__(self) -> None:
        super().__init__()
        self.pages = pool(9)
        self.living: dict[KVCache, Tensor] = {}
        self.seed = 0

    @initialize(target=caches)
    def begin_first(self) -> KVCache:
        return self.begin()

    @rule(target=caches)
    def begin(self) -> KVCache:
        cache = KVCache(self.pages)
        self.living[cache] = noise(LAYERS, 2, 0, HEADS, SIZE)
        self.grow(cache, 17)
        return cache

    @rule(cache=caches, tokens=TOKENS)
    def grow(self, cache: KVCache, tokens: int) -> None:
        self.seed += 1
        new = noise(LAYERS, 2, tokens, HEADS, SIZE, seed=self.seed)
        missing = max(page_count(cache.length + tokens) - len(cache.table), 0)
        if missing <= self.pages.free:
            append([cache], [new])
            self.living[cache] = torch.cat((self.living[cache], new), dim=2)
            return
        with pytest.raises(OutOfPages) as caught:
            append([cache], [new])
        assert (caught.value.wanted, caught.value.free) == (missing, self.pages.free)

    @rule(cache=caches, tokens=TOKENS)
    def give_up(self, cache: KVCache, tokens: int) -> None:
        """A pass that ends after its first layer."""
        if page_count(cache.length + tokens) - len(cache.table) <= self.pages.free:
            batch, new = KVBatch([cache], [tokens]), noise(2, tokens, HEADS, SIZE)
            self.pages.write(0, batch.slots, *new)

    @rule(target=caches, cache=caches)
    def fork(self, cache: KVCache) -> Any:
        partly = cache.length % PAGE != 0
        if partly and not self.pages.free:
            with pytest.raises(OutOfPages):
                cache.fork()
            return multiple()
        fork = cache.fork()
        assert fork.table[: cache.length // PAGE] == cache.table[: cache.length // PAGE]
        self.living[fork] = self.living[cache]
        return fork

    @rule(cache=consumes(caches))
    def end(self, cache: KVCache) -> None:
        cache.close()
        cache.close()
        del self.living[cache]

    @invariant()
    def no_page_is_leaked_or_owned_by_two(self) -> None:
        owned = Counter(page for cache in self.living for page in cache.table)
        assert self.pages.free == self.pages.count - len(owned)
        for cache in self.living:
            own = cache.table[cache.length // PAGE :]
            assert all(owned[page] == 1 for page in own), "a page that is written has one owner"
            assert len(set(cache.table)) == len(cache.table)
            assert cache.indices.tolist() == cache.table

    @invariant()
    def what_was_put_in_is_still_there(self) -> None:
        for cache, values in self.living.items():
            assert contents(cache).equal(values)


Owners.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestOwners = Owners.TestCase


@pytest.mark.parametrize("tokens", [15, 16, 17, 40])
def test_a_fork_outlives_its_origin_and_both_go_on(tokens: int) -> None:
    pages = pool(8)
    origin, start = KVCache(pages), noise(LAYERS, 2, tokens, HEADS, SIZE)
    append([origin], [start])
    origin.mask_position, origin.answered = 3, 5
    fork = origin.fork()
    assert pages.count - pages.free == page_count(tokens) + bool(tokens % PAGE)
    assert (fork.length, fork.mask_position, fork.answered) == (tokens, 3, 5)
    mine, other = (noise(LAYERS, 2, 4, HEADS, SIZE, seed=seed) for seed in (1, 2))
    append([origin, fork], [mine, other])
    assert contents(origin).equal(torch.cat((start, mine), dim=2))
    origin.close()
    append([KVCache(pages)], [noise(LAYERS, 2, 16 * pages.free, HEADS, SIZE, seed=3)])
    assert contents(fork).equal(torch.cat((start, other), dim=2))


@pytest.mark.parametrize("storage", STORAGES)
def test_sequences_of_one_pass_keep_their_own(storage: Storage) -> None:
    pages = pool(20, storage)
    caches = [KVCache(pages) for _ in range(3)]
    parts = [[noise(LAYERS, 2, tokens, HEADS, SIZE, seed=tokens) for tokens in (5, 0, 33)] for _ in range(2)]
    for new in parts:
        append(caches, new)
    off = {"float32": 0, "float16": 2e-3, "int8": 0.02, "int4": 0.3}[storage]
    for number, cache in enumerate(caches):
        put = torch.cat([new[number] for new in parts], dim=2)
        assert cache.length == put.shape[2]
        torch.testing.assert_close(contents(cache), put, atol=off, rtol=0)


def test_kernels_find_the_pages_of_every_sequence() -> None:
    pages = pool(20)
    pages.take(3)
    first, second = KVCache(pages), KVCache(pages)
    append([second, first], [noise(LAYERS, 2, tokens, HEADS, SIZE) for tokens in (20, 15)])
    batch = KVBatch([first, second], [3, 1])
    assert batch.tables.tolist() == first.table + second.table
    assert batch.sequences.tolist() == [[0, 15, 3], [2, 20, 1]]
    assert batch.tables.dtype == batch.sequences.dtype == torch.int32
    begun, other = first.table
    assert batch.slots.tolist() == [begun * 16 + 15, other * 16, other * 16 + 1, second.table[1] * 16 + 4]


@settings(deadline=None, max_examples=60)
@given(
    storage=st.sampled_from(["int8", "int4"]),
    values=st.lists(
        st.floats(-1000, 1000, width=32) | st.sampled_from([0.0, 1e-8, -1e-30]), min_size=SIZE, max_size=SIZE
    ),
)
def test_integers_are_off_by_half_a_step_at_most(storage: Storage, values: list[float]) -> None:
    row = torch.tensor(values)
    pages, slots = pool(1, storage), torch.tensor([3])
    pages.write(1, slots, row.expand(1, HEADS, SIZE), -row.expand(1, HEADS, SIZE))
    key, value = pages.read(1, torch.tensor([0], dtype=torch.int32), 4, torch.float32)
    span = float(row.max() - row.min())
    step = float(row.abs().max()) / 127 if storage == "int8" else span / 15
    # scale and zero are rounded to halves: by 2^-11 of themselves, at the end of the codes; or by 2^-25
    rounded = float(row.abs().max()) * 2**-10 + 130 * 2**-25
    for head in range(HEADS):
        assert (key[head, 3] - row).abs().max() <= step / 2 + rounded
        assert (value[head, 3] + row).abs().max() <= step / 2 + rounded


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(storage: Storage, wrong: float) -> None:
    """So that the sampler sees it, instead of an answer made of noise."""
    pages = pool(1, storage)
    row = torch.full((1, HEADS, SIZE), wrong)
    row[..., 1:] = 1
    pages.write(0, torch.tensor([0]), row, row)
    key, _ = pages.read(0, torch.tensor([0], dtype=torch.int32), 1, torch.float32)
    assert not key.isfinite().all()


@pytest.mark.parametrize("storage", STORAGES)
def test_bytes_are_those_of_the_tensors(storage: Storage) -> None:
    assert pool(5, storage).nbytes == 5 * page_bytes(LAYERS, HEADS, SIZE, storage)


@pytest.mark.parametrize(
    ("kv_type", "exact", "storage"),
    [
        ("auto", False, "float16"),
        ("fp16", False, "float16"),
        ("int8", False, "int8"),
        ("int4", False, "int4"),
        ("auto", True, "float32"),
        ("int4", True, "float32"),
    ],
)
def test_what_is_exact_is_stored_in_float32(kv_type: KVType, exact: bool, storage: Storage) -> None:
    assert choose_storage(kv_type, exact=exact) == storage


def test_refusals_tell_how_many_pages() -> None:
    pages = pool(4)
    with pytest.raises(OutOfPages, match=r"5 pages of 16 tokens are wanted, 4 of 4 are free"):
        KVCache(pages).reserve(65)
    assert pages.free == 4
