"""Splitting, rotating and keeping keys and values: kernels against the reference."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from model.kernels.fused import Fused
from model.kernels.mma_linear import Sums
from model.kernels.reference import Reference
from model.kv_cache import KVBatch, KVCache, KVPages, Storage

STORAGES = [storage for storage in get_args(Storage) if storage != "float32"]
REFERENCE = Reference(torch.float16)


def new_pages(storage: Storage, heads: int, count: int = 6) -> KVPages:
    """Two layers of pages that hold NaN, or what else comes of setting all bits."""
    pages = KVPages(count, layers=2, heads=heads, head_size=128, storage=storage)
    for tensor in (pages.data, pages.scale, pages.zero):
        if tensor is not None:
            tensor.view(torch.uint8).fill_(0xFF)
    return pages


def angles(tokens: int, axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.randn(tokens, axes, 64 // axes) * 3
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (5, 3), (19, 8)])
def test_rope_kv(fused: Fused, storage: Storage, axes: int, tokens: int, heads: int) -> None:
    torch.manual_seed(tokens)
    qkv, (cos, sin) = torch.randn(tokens, heads * 384).half() * 2, angles(tokens, axes)
    mine, theirs = new_pages(storage, heads), new_pages(storage, heads)
    cache = KVCache(mine)
    cache.reserve(37)
    cache.length = 13
    slots = KVBatch([cache], [tokens]).slots
    results = fused.rope_kv(qkv, cos, sin, mine, slots, 1)
    expected = REFERENCE.rope_kv(qkv, cos, sin, theirs, slots, 1)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(results[2], expected[2], atol=0, rtol=0)
    theirs = new_pages(storage, heads)
    theirs.write(1, slots, results[1], results[2])  # from the same halves the same bits are kept
    for kept, wanted in ((mine.data, theirs.data), (mine.scale, theirs.scale), (mine.zero, theirs.zero)):
        if kept is not None and wanted is not None:
            assert torch.equal(kept.view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_heads_of_equal_numbers(fused: Fused, storage: Storage) -> None:
    pages, slots = new_pages(storage, 1), torch.tensor([3])
    qkv = torch.cat((torch.zeros(256), torch.full((128,), -2.5))).half().unsqueeze(0)
    fused.rope_kv(qkv, torch.ones(1, 2, 32), torch.zeros(1, 2, 32), pages, slots, 0)
    key, value = pages.read(0, torch.tensor([0]), 4, torch.float32)
    assert key[0, 3].tolist() == [0] * 128
    torch.testing.assert_close(value[0, 3], torch.full((128,), -2.5), atol=0.02, rtol=0)


def test_sums_are_added_with_their_bias(fused: Fused) -> None:
    torch.manual_seed(1)
    shares, bias, rotary = torch.randn(3, 2, 384), torch.randn(384).half(), angles(2, 2)
    pages, slots = new_pages("float16", 1), torch.tensor([0, 17])
    query = fused._rope(Sums(shares, bias), rotary, pages, slots, 0)
    qkv = (shares.double().sum(0) + bias.double()).half()
    expected = REFERENCE.rope_kv(qkv, *rotary, new_pages("float16", 1), slots, 0)
    torch.testing.assert_close(query, expected[0], atol=4e-3, rtol=2e-3)
    _, value = pages.read(0, torch.tensor([0, 1]), 18, torch.float16)
    torch.testing.assert_close(value[0, [0, 17]], expected[2][:, 0], atol=2e-3, rtol=1e-3)


def test_rows_that_are_none_are_not_kept(fused: Fused) -> None:
    pages = new_pages("float16", 2)
    before = pages.data.clone()
    fused.rope_kv(torch.randn(2, 768).half(), *angles(2, 2), pages, torch.tensor([-1, -1]), 0)
    assert torch.equal(pages.data.view(torch.uint8), before.view(torch.uint8))
