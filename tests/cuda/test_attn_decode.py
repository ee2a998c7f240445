"""Attention of single tokens to pages: kernels against float64 over what the pages hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model.kernels.fused import Fused
from model.kv_cache import KVBatch, KVCache, KVPages, Storage
from tests.cuda.test_rope_kv import STORAGES, new_pages


def filled(pages: KVPages, lengths: Sequence[int], *, shared: int = 0) -> list[KVCache]:
    """Caches of so many tokens in layer 1; with `shared`, the later ones begin with all of the first one."""
    caches = list[KVCache]()
    for length in lengths:
        cache = caches[0].fork() if caches and shared else KVCache(pages)
        new = length - cache.length
        batch = KVBatch([cache], [new])
        pages.write(1, batch.slots, *(torch.randn(new, pages.heads, 128).half() for _ in range(2)))
        batch.commit()
        caches.append(cache)
        if shared and len(caches) == 1:
            assert length == shared
    return caches


def expected(query: Tensor, batch: KVBatch, layer: int) -> Tensor:
    contexts, at = [], 0
    for cache, new in zip(batch.caches, batch.lengths, strict=True):
        for t in range(new):
            seen = cache.length + t + 1
            key, value = batch.pages.read(layer, cache.indices, seen, torch.float64)
            scores = torch.einsum("hd,hnd->hn", query[at].double(), key) / math.sqrt(128)
            contexts.append(torch.einsum("hn,hnd->hd", scores.softmax(-1), value).flatten())
            at += 1
    return torch.stack(contexts)


def attend(fused: Fused, caches: Sequence[KVCache], new: Sequence[int]) -> tuple[Tensor, Tensor, KVBatch]:
    pages = caches[0].pages
    batch = KVBatch(caches, new)
    total = sum(new)
    pages.write(1, batch.slots, *(torch.randn(total, pages.heads, 128).half() for _ in range(2)))
    query = torch.randn(total, pages.heads, 128).half() * 2
    return fused.attention(query, batch, 1), query, batch


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("lengths", "new"),
    [
        ([0], [1]),
        ([15, 16, 17], [1, 1, 1]),
        ([0, 40, 130], [3, 1, 2]),
        ([255], [1]),
        ([256, 7], [1, 1]),
        ([700, 511, 31], [1, 2, 1]),
    ],
)
def test_attention(fused: Fused, storage: Storage, lengths: list[int], new: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    pages = new_pages(storage, 2, count=80)
    out, query, batch = attend(fused, filled(pages, lengths), new)
    torch.testing.assert_close(out.double(), expected(query, batch, 1), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("storage", STORAGES)
def test_sequences_that_share_the_pages_of_a_prefix(fused: Fused, storage: Storage) -> None:
    torch.manual_seed(3)
    pages = new_pages(storage, 1, count=60)
    caches = filled(pages, [64, 90, 320], shared=64)
    assert caches[1].table[:4] == caches[2].table[:4] == caches[0].table
    out, query, batch = attend(fused, caches[1:], [1, 1])
    torch.testing.assert_close(out.double(), expected(query, batch, 1), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_sequence_has_the_same_bits_in_any_batch(fused: Fused, storage: Storage) -> None:
    torch.manual_seed(4)
    pages = new_pages(storage, 2, count=80)
    caches = filled(pages, [100, 290, 600])
    together, query, _ = attend(fused, caches, [1, 1, 1])
    for number, cache in enumerate(caches):
        one = query[number : number + 1]
        alone = fused.attention(one, KVBatch([cache], [1]), 1)
        assert torch.equal(alone[0], together[number])


def test_scores_that_are_far_apart(fused: Fused) -> None:
    torch.manual_seed(5)
    pages = new_pages("float16", 1, count=20)
    (cache,) = filled(pages, [299])
    _, query, batch = attend(fused, [cache], [1])
    out = fused.attention(query * 40, batch, 1)
    torch.testing.assert_close(out.double(), expected(query * 40, batch, 1), atol=4e-3, rtol=4e-3)
