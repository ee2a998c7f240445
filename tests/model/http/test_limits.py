"""Requests and tokens a minute: buckets by a clock in hand, and refusals that say when to come back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from model.http.errors import ApiError
from model.http.keys import Key, KeyFile, Keys
from model.http.limits import Bucket, Limits
from model.types import ModelError, Usage
from tests.model.http.talker import Site, Talker, chat_body, error_of, until


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key(**limits: int) -> Key:
    return Key.model_validate(
        {"name": "shop", "sha256": "0" * 64, "created": "2026-01-01T00:00:00Z", **limits}
    )


def test_a_bucket_fills_up_steadily_and_no_further(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.wait(1) == pytest.approx(1)
    clock.now += 0.5
    assert bucket.wait(1) == pytest.approx(0.5)
    clock.now += 3600
    assert bucket.wait(60) == 0
    assert bucket.wait(61) == pytest.approx(1)
    bucket.take(120)
    assert bucket.wait(1) == pytest.approx(61)


def test_requests_are_limited_by_key(clock: Clock) -> None:
    limits, shop = Limits(clock), key(requests_per_minute=2)
    for _ in range(2):
        limits.admit(shop)
    with pytest.raises(ApiError) as caught:
        limits.admit(shop)
    assert (caught.value.status, caught.value.kind) == (429, "requests")
    assert caught.value.headers["Retry-After"] == "30"
    limits.admit(shop.model_copy(update={"name": "other"}))
    limits.admit(shop.model_copy(update={"requests_per_minute": 3}))  # as it is now
    limits.admit(None)
    clock.now += 30
    limits.admit(shop)


def test_tokens_are_reserved_and_settled(clock: Clock) -> None:
    limits, shop = Limits(clock), key(tokens_per_minute=100)
    first = limits.reserve(shop, 80)
    with pytest.raises(ApiError) as caught:
        limits.reserve(shop, 80)
    assert caught.value.kind == "tokens"
    first.settle(30)
    first.settle(0)  # nothing more
    second = limits.reserve(shop, 70)
    second.settle(130)
    with pytest.raises(ApiError) as caught:
        limits.reserve(shop, 1)
    assert caught.value.headers["Retry-After"] == "37"  # 61 tokens
    clock.now += 3600
    limits.reserve(shop, 10_000)  # more than it may have: from a full bucket
    limits.reserve(key(), 10_000).settle(5)


@pytest.fixture
async def limited(serve: Any, tmp_path: Path) -> tuple[Site, str, str]:
    file = KeyFile(tmp_path / "keys.json")
    requests = file.create("requests", requests_per_minute=2)
    tokens = file.create("tokens", tokens_per_minute=100)
    return await serve(keys=Keys(file=file.path)), requests, tokens


async def test_too_many_requests_are_told_when_to_come_back(limited: tuple[Site, str, str]) -> None:
    site, key, _ = limited
    for _ in range(2):
        assert (await site.chat(key))[0] == 200
    answer = await site.chat(key)
    assert answer[0] == 429
    assert error_of(answer)["code"] == "rate_limit_exceeded"
    assert error_of(answer)["type"] == "requests"
    assert 1 <= int(answer[2]["Retry-After"]) <= 30
    assert (await site.ask("/v1/models", key=key))[0] == 200


async def test_tokens_are_charged_as_they_were_used(limited: tuple[Site, str, str], talker: Talker) -> None:
    site, _, key = limited
    talker.usage = Usage(20, 15)
    for _ in range(2):
        assert (await site.chat(key, max_tokens=60))[0] == 200
    answer = await site.chat(key, max_tokens=60)  # 30 are left
    assert answer[0] == 429
    assert error_of(answer)["type"] == "tokens"
    assert (await site.chat(key, max_tokens=25))[0] == 200


async def test_refused_requests_cost_no_tokens(limited: tuple[Site, str, str], talker: Talker) -> None:
    site, _, key = limited
    talker.says = [ModelError("the device is gone")]
    for _ in range(3):
        assert (await site.chat(key, max_tokens=60))[0] == 500


async def test_who_leaves_pays_for_what_was_said(limited: tuple[Site, str, str], talker: Talker) -> None:
    site, _, key = limited
    talker.says = ["x "] * 40 + [None]
    headers = {"Authorization": f"Bearer {key}"}
    url = site.server.url + "/v1/chat/completions"
    async with site.client.post(url, json=chat_body(stream=True, max_tokens=99), headers=headers) as response:
        read = b""
        while read.count(b'"content":"x "') < 40:
            read += await response.content.readany()
        response.close()
    await until(lambda: talker.open == 0)
    await asyncio.sleep(0.01)
    talker.says = ["a"]
    assert (await site.chat(key, max_tokens=57))[0] == 429  # the prompt was read: 40 + 2 tokens, and 2 again
    assert (await site.chat(key, max_tokens=50))[0] == 200


async def test_no_more_is_reserved_than_can_be_used(serve: Any, tmp_path: Path, talker: Talker) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.create("shop", tokens_per_minute=100)
    site = await serve(keys=Keys(file=file.path), max_new_tokens=40)
    talker.says = ["a", None]
    first = asyncio.create_task(site.chat(key, max_tokens=10_000))
    await until(lambda: talker.open == 1)
    second = asyncio.create_task(site.ask("/", {"prompt": "hi"}, key=key))
    await until(lambda: talker.open == 2)
    assert (await site.chat(key))[0] == 429
    talker.release.set()
    assert (await first)[0] == (await second)[0] == 200


async def test_a_key_is_one_user_who_asks_a_few_things_at_a_time(serve: Any, talker: Talker) -> None:
    """The model takes two of a user; the others of the key wait for those, up to a limit."""
    site = await serve(keys=Keys(["shop"]), max_per_key=5)
    talker.of_user = 2
    talker.says = [None, "a"]
    asked = [asyncio.create_task(site.chat("shop", user=f"u{number}")) for number in range(5)]
    await until(lambda: talker.open == 2)
    await asyncio.sleep(0.05)
    answer = await site.chat("shop")
    assert answer[0] == 429
    assert error_of(answer)["code"] == "model_busy"
    assert int(answer[2]["Retry-After"]) >= 1
    talker.release.set()
    assert [(await one)[0] for one in asked] == [200] * 5
    assert {call.user for call in talker.calls} == {"--api-key 1"}
