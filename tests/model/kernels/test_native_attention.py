"""Native attention against the reference's: over pages of every storage, and within a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.library import Library, Pool
from model.kernels.native import Native
from model.kernels.operations import Operations
from model.kernels.reference import Reference
from model.kv_cache import KVBatch, KVCache, KVPages, Storage

REFERENCE = Reference(torch.float32)
STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")
SPLIT = 256
"""Tokens of a part: longer contexts are cut."""

storages = st.sampled_from(STORAGES)
sizes = st.integers(1, 70).map(lambda half: 2 * half) | st.just(128)
relaxed = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def native(library: Library, threads: int = 2, isa: str | None = None) -> Native:
    library.use(isa or library.isas[0])
    return Native(library, Pool(library, threads, spin_us=1))


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def empty_pages(count: int, heads: int, size: int, storage: Storage) -> KVPages:
    """Pages of two layers where slots that nobody has written hold NaN."""
    pages = KVPages(count, layers=2, heads=heads, head_size=size, storage=storage)
    for numbers in (pages.data, pages.scale, pages.zero):
        if numbers is not None:
            numbers.view(torch.uint8).fill_(255)
    return pages


def written(pages: KVPages, before: Sequence[int], new: Sequence[int], seed: int = 0) -> KVBatch:
    """A pass of `new` tokens of sequences that have `before` already; keys and values of layer 1 are in."""
    caches = [KVCache(pages) for _ in before]
    for stage in (before, new):
        batch = KVBatch(caches, stage)
        shape = (2, sum(stage), pages.heads, pages.head_size)
        pages.write(1, batch.slots, *noise(*shape, seed=seed + len(batch.slots)))
        if stage is before:
            batch.commit()
    return batch


def queries(batch: KVBatch, scale: float = 3.0) -> Tensor:
    shape = (sum(batch.lengths), batch.pages.heads, batch.pages.head_size)
    return noise(*shape, seed=7, scale=scale)


def check(operations: Operations, batch: KVBatch) -> None:
    query = queries(batch)
    context = operations.attention(query, batch, 1)
    expected = REFERENCE.attention(query, batch, 1)
    torch.testing.assert_close(context, expected, atol=3e-5, rtol=1e-4)


@relaxed
@given(
    storage=storages,
    heads=st.integers(1, 3),
    size=sizes,
    lengths=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 4)), min_size=1, max_size=4),
)
def test_attention_to_pages_is_the_references(
    library: Library, storage: Storage, heads: int, size: int, lengths: list[tuple[int, int]]
) -> None:
    before, new = zip(*lengths, strict=True)
    if sum(new):
        check(native(library), written(empty_pages(160, heads, size, storage), before, new))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("before", [0, 14, 15, 16, 31, SPLIT - 1, SPLIT, SPLIT + 15, 2 * SPLIT - 1])
def test_lengths_at_the_borders_of_pages_and_parts(library: Library, storage: Storage, before: int) -> None:
    check(native(library), written(empty_pages(40, 2, 128, storage), [before], [2]))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("before", "new"), [(0, 16), (5, 31), (0, 150), (300, 130)])
def test_many_new_tokens_each_see_what_came_before_them(
    library: Library, storage: Storage, before: int, new: int
) -> None:
    check(native(library), written(empty_pages(60, 2, 20, storage), [before, 3], [new, 1]))


def test_sequences_share_the_pages_of_a_prefix(library: Library) -> None:
    pages = empty_pages(20, 2, 16, "float16")
    first = KVCache(pages)
    batch = KVBatch([first], [37])
    pages.write(1, batch.slots, *noise(2, 37, 2, 16))
    batch.commit()
    batch = KVBatch([first, first.fork(), first.fork()], [1, 2, 1])
    pages.write(1, batch.slots, *noise(2, 4, 2, 16, seed=1))
    check(native(library), batch)


@pytest.mark.parametrize("storage", STORAGES)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(
    library: Library, storage: Storage
) -> None:
    batch = written(empty_pages(120, 3, 72, storage), [700, 0, 15, 40], [1, 1, 2, 20])
    query = queries(batch)
    results = [
        native(library, threads, isa).attention(query, batch, 1)
        for isa in library.isas
        for threads in (1, 2, 3)
    ]
    for result in results:
        assert result.equal(results[0])


def test_a_token_gets_the_same_bits_alone_and_in_a_batch(library: Library) -> None:
    operations, pages = native(library), empty_pages(60, 2, 128, "float16")
    batch = written(pages, [300, 33], [1, 1])
    together = operations.attention(queries(batch), batch, 1)
    for number, cache in enumerate(batch.caches):
        alone = operations.attention(queries(batch)[number : number + 1], KVBatch([cache], [1]), 1)
        assert alone[0].equal(together[number])


@pytest.mark.parametrize("storage", STORAGES)
def test_scores_that_differ_by_far_leave_one_token(library: Library, storage: Storage) -> None:
    batch = written(empty_pages(40, 1, 32, storage), [400], [1])
    query = queries(batch, scale=1e4)
    context = native(library).attention(query, batch, 1)
    torch.testing.assert_close(context, REFERENCE.attention(query, batch, 1), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("new", [1, 20])
def test_what_is_not_a_number_stays_so_and_in_its_sequence(library: Library, new: int) -> None:
    batch = written(empty_pages(40, 2, 16, "float16"), [20, 30], [new, 1])
    query = queries(batch)
    query[0, 1, 3] = torch.nan
    context = native(library).attention(query, batch, 1).view(new + 1, 2, 16)
    assert context[0, 1].isnan().all()
    assert not context[:, 0].isnan().any()
    assert not context[1:].isnan().any()


@relaxed
@given(
    new=st.integers(1, 200),
    prefix=st.integers(0, 70),
    heads=st.integers(1, 3),
    size=st.integers(1, 70) | st.just(128),
)
def test_attention_within_a_prompt_is_the_references(
    library: Library, new: int, prefix: int, heads: int, size: int
) -> None:
    query = noise(new, heads, size, scale=3.0)
    key, value = noise(2, prefix + new, heads, size, seed=1)
    context = native(library).context_attention(query, key, value)
    expected = REFERENCE.context_attention(query, key, value)
    torch.testing.assert_close(context, expected, atol=3e-5, rtol=1e-4)


def test_a_prompt_gets_the_same_bits_everywhere_and_each_query_alone(library: Library) -> None:
    query, (key, value) = noise(150, 2, 40), noise(2, 170, 2, 40, seed=1)
    results = [
        native(library, threads, isa).context_attention(query, key, value)
        for isa in library.isas
        for threads in (1, 2, 3)
    ]
    for result in results:
        assert result.equal(results[0])
    alone = native(library).context_attention(query[140:141], key, value)
    assert alone[0].equal(results[0][140])


def test_a_prompt_of_numbers_that_are_none(library: Library) -> None:
    query, (key, value) = noise(40, 2, 16), noise(2, 40, 2, 16, seed=1)
    query[7, 0, 0] = torch.nan
    context = native(library).context_attention(query, key, value).view(40, 2, 16)
    assert context[7, 0].isnan().all()
    assert int(context.isnan().sum()) == 16
