"""The pace of one bot, by a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.telegram.limits import Pace


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return clock


async def test_a_burst_passes_and_the_rest_waits_its_turn(clock: Clock) -> None:
    pace = Pace(per_second=30, clock=clock)
    times = []
    for number in range(90):
        await pace.turn(str(number))
        times.append(clock.now - 1000)
    assert times[29] == 0
    assert times[30] == times[59] == 1
    assert times[89] == 2


def test_a_growing_text_is_shown_now_and_then() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.may_show("5", "a", group=False)
    assert not pace.may_show("5", "ab", group=False)
    clock.now += 1.3
    assert not pace.may_show("5", "a", group=False)  # nothing new
    assert pace.may_show("5", "ab", group=False)
    clock.now += 1.3
    assert not pace.may_show("5", "abc", group=True)
    clock.now += 1.8
    assert pace.may_show("5", "abc", group=True)


def test_a_growing_text_leaves_room_for_answers_in_a_group() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    shown = 0
    for number in range(19):
        clock.now += 3.1
        shown += pace.may_show("-1", str(number), group=True)
    assert shown == 14


def test_a_held_chat_is_left_alone_until_then() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.hold("5", 10)
    pace.hold("5", 2)
    assert (pace.held("5"), pace.held("6")) == (10, 0)
    assert not pace.may_show("5", "a", group=False)
    clock.now += 10
    assert pace.held("5") == 0
    assert pace.may_show("5", "a", group=False)


@given(st.lists(st.sampled_from(["turn", "hold", "show"]), max_size=50))
def test_memory_is_bounded(steps: list[str]) -> None:
    pace = Pace(capacity=3, clock=Clock())
    for number, step in enumerate(steps):
        if step == "hold":
            pace.hold(str(number), 1)
        else:
            pace.may_show(str(number), "x", group=step == "turn")
    assert len(pace._chats) <= 3
