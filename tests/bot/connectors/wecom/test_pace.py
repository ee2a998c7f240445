"""Sliding windows, by a clock that the test sets, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.pace import Limit, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_does_not_fit_is_told_when_it_will() -> None:
    clock = Clock()
    pace = Pace(Limit(30, 60), Limit(40, 3600), clock=clock)
    assert [pace.take("a") for _ in range(30)] == [0.0] * 30
    clock.now += 20
    assert pace.take("a") == 40
    assert pace.take("b") == 0
    clock.now += 40
    assert [pace.take("a") for _ in range(10)] == [0.0] * 10  # what was refused did not count
    assert pace.take("a") == 3540


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abc")), max_size=60),
)
def test_no_window_ever_holds_more_than_its_limit(
    limits: list[tuple[int, int]], steps: list[tuple[int, str]]
) -> None:
    clock = Clock()
    pace = Pace(*(Limit(count, seconds) for count, seconds in limits), clock=clock)
    taken: dict[str, list[float]] = {"a": [], "b": [], "c": []}

    def fits(key: str, at: float) -> bool:
        return all(sum(stamp > at - seconds for stamp in taken[key]) < count for count, seconds in limits)

    for pause, key in steps:
        clock.now += pause
        wait = pace.take(key)
        assert (wait == 0) == fits(key, clock.now)
        if wait:
            assert fits(key, clock.now + wait)
            assert not fits(key, clock.now + wait - 0.5)
        else:
            taken[key].append(clock.now)


def test_memory_is_bounded() -> None:
    clock = Clock()
    pace = Pace(Limit(1, 60), capacity=3, clock=clock)
    for key in "abcd":
        assert pace.take(key) == 0
    assert pace.take("d") == 60
    assert pace.take("a") == 0  # forgotten: it was not asked for longest


@pytest.mark.parametrize("limits", [(), (Limit(0, 60),)])
def test_a_pace_that_lets_nothing_through_is_refused(limits: tuple[Limit, ...]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pace(*limits)
