"""Fifty clients that come, leave, cancel and run out of time at random, for a minute or for ten."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

import model
from model.batched import BatchedModel
from model.random_model import make_random
from model.scheduler import Limits
from model.types import GenerationParams, ModelBusy, ModelTimeout, PromptTooLong

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

CLIENTS = 50
LIMITS = Limits(pages=400, answering=32, batch=16, waiting=40)
WORDS = ["退货", "运费", "多久", "能", "到", "你好", "发票", "怎么", "修改", "地址", "的", "吗", "？", "，"]


@pytest.mark.parametrize(
    "seconds", [60, pytest.param(600, marks=pytest.mark.long)], ids=["a minute", "ten minutes"]
)
async def test_nothing_is_lost_or_left_after_a_storm(tmp_path: Path, seconds: int) -> None:
    """Every request is answered or refused with a reason, no page leaks, and memory stays where it was."""
    make_random(tmp_path / "tiny")
    loaded = model.load(tmp_path / "tiny", device="cpu", max_context=256)
    batched = BatchedModel(loaded, LIMITS, max_new_tokens=60)
    seed = random.SystemRandom().randrange(2**32)
    ends = Counter[str]()
    tasks = [asyncio.create_task(client(batched, seed + number, seconds, ends)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds / 3)  # by then every page was used
    gc.collect()
    warm = resident()
    await asyncio.gather(*tasks)
    gc.collect()
    grown = resident() / warm
    await settle(batched)
    runner = batched._engine._worker.runner
    runner.forget()
    assert runner.pages.free == LIMITS.pages, f"pages leaked, with the seed {seed}"
    assert 0.97 <= grown <= 1.03, f"memory went to {grown:.3f} of what it was, with the seed {seed}"
    assert min(ends[how] for how in ("answered", "left", "cancelled", "overdue", "too long")) > 0, ends
    await batched.close()


async def client(batched: BatchedModel, seed: int, seconds: float, ends: Counter[str]) -> None:
    chance, end = random.Random(seed), monotonic() + seconds
    while monotonic() < end:
        query = "".join(chance.choices(WORDS, k=chance.choice((3, 10, 30, 60, 300))))
        params = GenerationParams(
            chance.randint(1, 60), chance.choice((0.0, 0.9)), seed=chance.randrange(1000), stop=("。",)
        )
        if chance.random() < 0.1:
            params = replace(params, timeout=chance.uniform(0.001, 0.2))
        request = asyncio.create_task(ask(batched, query, params, f"user {seed % 40}", chance))
        if chance.random() < 0.15:
            await asyncio.sleep(chance.uniform(0, 0.2))
            request.cancel()
        try:
            ends[await request] += 1
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0, 0.3))


async def ask(
    batched: BatchedModel, query: str, params: GenerationParams, user: str, chance: random.Random
) -> str:
    """How it ended; anything but what may happen is the test's failure."""
    leaves = chance.random() < 0.15
    try:
        async with aclosing(batched.chat(query, (), params, user=user)) as deltas:
            async for delta in deltas:
                if leaves and delta.text:
                    return "left"
                if delta.finish:
                    return "answered"
    except ModelBusy:
        await asyncio.sleep(0.05)
        return "busy"
    except ModelTimeout:
        return "overdue"
    except PromptTooLong:
        return "too long"
    raise AssertionError(f"an answer without an end to {query!r}")


async def settle(batched: BatchedModel) -> None:
    async with asyncio.timeout(10):
        while batched.registry.get_sample_value("glmbot_model_resident"):  # noqa: ASYNC110 - a thread's
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
