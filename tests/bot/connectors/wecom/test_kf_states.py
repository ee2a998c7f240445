"""Who has a conversation is found out in the end, and what was found out too late is not told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.connectors.wecom import kf_states
from bot.connectors.wecom.kf import Kf
from bot.errors import Overloaded, StoreError, Undeliverable
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, UNLISTED, Stage, event, part, staged
from tests.bot.connectors.wecom.qyapi import WAIT

GET = "kf/service_state/get"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kf_states, "AGAIN_AFTER", (0.0, 0.01, 0.01))


def holders(stage: Stage) -> list[tuple[str, str]]:
    return [(item.user.id, item.data["holder"]) for item in stage.inlet.messages]


async def happens(stage: Stage, kf: Kf, change: int | None, customer: str = CUSTOMER) -> None:
    """A conversation changes hands, and is pulled."""
    pulls = len(stage.platform.of("kf/sync_msg"))
    stage.platform.say(event("session_status_change", customer, change_type=change))
    stage.wake(kf)
    await stage.platform.called("kf/sync_msg", pulls + 1)


@pytest.mark.parametrize("code", [-1, 60020, UNLISTED])
async def test_a_state_that_is_refused_is_asked_for_again(stage: Stage, soon: None, code: int) -> None:
    stage.platform.kf_states[CUSTOMER] = 4
    kf = await stage.connect()
    stage.platform.refuse(GET, code, times=2)
    stage.platform.cut(GET)
    await happens(stage, kf, None)
    await stage.inlet.got(1)
    assert holders(stage) == [(CUSTOMER, "nobody")]
    assert len(stage.platform.of(GET)) == 4


async def test_a_core_that_takes_nothing_is_told_again(stage: Stage, soon: None) -> None:
    stage.platform.kf_states[CUSTOMER] = 4
    kf = await stage.connect()
    stage.inlet.refusals += [StoreError("locked", transient=True), Overloaded(0.01)]
    await happens(stage, kf, None)
    await stage.inlet.got(1)
    assert holders(stage) == [(CUSTOMER, "nobody")]


async def test_who_is_gone_is_not_asked_for_again_and_nobody_for_ever(stage: Stage, soon: None) -> None:
    kf = await stage.connect()
    with capture_logs() as logs:
        for code, times in ((84061, 1), (60020, 4)):
            before = len(stage.platform.of(GET))
            stage.platform.refuse(GET, code, times=times)
            await happens(stage, kf, None, f"wm{code}")
            await stage.platform.called(GET, before + times)
            async with asyncio.timeout(WAIT):
                while kf._states._open:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.005)
            assert len(stage.platform.of(GET)) == before + times
    assert len([line for line in logs if "is not known" in line["event"]]) == 2
    assert stage.inlet.messages == []


async def test_an_answer_that_is_older_than_the_end_of_a_talk_is_not_told(stage: Stage) -> None:
    kf = await stage.connect()
    slow, quick = asyncio.Event(), kf._desk.state

    async def state(customer: str) -> int:
        found = await quick(customer)
        await slow.wait()
        return found

    kf._desk.state = state  # type: ignore[method-assign]
    stage.platform.kf_states[CUSTOMER] = 3
    with pytest.raises(Undeliverable):
        await kf.send(part())  # 95018: a member has taken the talk
    await stage.platform.called(GET, 1)
    stage.platform.kf_states[CUSTOMER] = 4
    await happens(stage, kf, 3)
    await stage.inlet.got(1)
    slow.set()
    await stage.platform.called(GET, 2)
    await asyncio.sleep(0.05)
    assert holders(stage) == [(CUSTOMER, "nobody")]


@pytest.mark.parametrize("change", ["hand_over", "take_back"])
async def test_what_the_bot_itself_does_is_newer_than_a_question_from_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(kf_states, "AGAIN_AFTER", (0.1, 0.1))
    kf = await stage.connect()
    stage.platform.refuse(GET, -1)
    await happens(stage, kf, None)
    await stage.platform.called(GET, 1)
    await getattr(kf, change)(part().target)
    await asyncio.sleep(0.2)
    assert holders(stage) == []
    assert len(stage.platform.of(GET)) == 2


async def test_a_question_without_an_answer_does_not_hold_up_the_end(stage: Stage) -> None:
    kf = await stage.connect()
    stage.platform.refuse(GET, -1)
    await happens(stage, kf, None)
    await stage.platform.called(GET, 1)
    async with asyncio.timeout(1):
        await kf.stop()
        await kf.close()
    assert stage.inlet.messages == []


def test_the_last_try_comes_hours_later() -> None:
    waits: tuple[Any, ...] = kf_states.AGAIN_AFTER
    assert 3600 < sum(waits) < 4 * 3600
