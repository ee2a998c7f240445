"""Prompts read slice by slice, on small random networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.chatglm import ChatGLM
from model.kv_cache import KVCache
from model.reading import Split

VECTORS = Path(__file__).parents[1] / "data" / "chatglm"


@pytest.fixture(scope="module", params=["float32", "auto"])
def network(request: pytest.FixtureRequest) -> ChatGLM:
    """Once exact, once with what is fastest here."""
    return model.load(VECTORS, device="cpu", quantization="int4", dtype=request.param).network


def prompt(network: ChatGLM, length: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, network.config.mask_token_id, (length,), generator=generator).tolist()
    return network.split([*words, network.config.gmask_token_id, network.config.bos_token_id])


def new_caches(network: ChatGLM, count: int) -> list[KVCache]:
    pages = network.new_pages(64, "float16")
    return [KVCache(pages) for _ in range(count)]


def logits(network: ChatGLM, splits: list[Split], caches: list[KVCache]) -> torch.Tensor:
    return network.extend([split.answer for split in splits], caches)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4), rows=st.integers(1, 80))
def test_slices_give_the_same_bits_as_one_go(network: ChatGLM, lengths: list[int], rows: int) -> None:
    """As few rows as one at a time, over the borders of prompts."""
    splits = [prompt(network, length, seed) for seed, length in enumerate(lengths)]
    caches, whole = new_caches(network, len(splits)), new_caches(network, len(splits))
    reading = network.reading(splits, caches, rows=rows)
    while not reading.step():
        assert all(cache.length == 0 for cache in caches)
    network.prefill(splits, whole)
    assert torch.equal(logits(network, splits, caches), logits(network, splits, whole))


@settings(max_examples=25, deadline=None)
@given(gone=st.integers(0, 2), after=st.integers(0, 12), rows=st.integers(5, 40))
def test_a_prompt_that_is_dropped_leaves_the_others_alone(
    network: ChatGLM, gone: int, after: int, rows: int
) -> None:
    """Its pages may be another's at once."""
    splits = [prompt(network, length, length) for length in (20, 33, 7)]
    caches = new_caches(network, 3)
    reading = network.reading(splits, caches, rows=rows)
    done = any(reading.step() for _ in range(after))
    if done:
        return
    reading.drop(caches[gone])
    caches[gone].close()
    other = KVCache(caches[gone].pages)
    network.prefill([splits[gone]], [other])
    while not reading.step():
        pass
    kept = [number for number in range(3) if number != gone]
    alone = new_caches(network, 2)
    network.prefill([splits[number] for number in kept], alone)
    assert torch.equal(
        logits(network, [splits[number] for number in kept], [caches[number] for number in kept]),
        logits(network, [splits[number] for number in kept], alone),
    )


def test_what_is_left_falls_to_nothing(network: ChatGLM) -> None:
    [cache] = new_caches(network, 1)
    reading = network.reading([prompt(network, 40, 0)], [cache], rows=16)
    left = [reading.left]
    while not reading.step():
        left.append(reading.left)
    assert left == sorted(left, reverse=True)
    assert reading.left == 0


def test_when_all_are_dropped_nothing_is_left(network: ChatGLM) -> None:
    [cache] = new_caches(network, 1)
    reading = network.reading([prompt(network, 40, 0)], [cache], rows=16)
    reading.step()
    reading.drop(cache)
    assert reading.left == 0
    assert reading.step()
    assert cache.length == 0
