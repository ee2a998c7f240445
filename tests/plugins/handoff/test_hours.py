"""When people are there: shifts, days off, clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.handoff.hours import Hours, parse_days

OFFICE = {"timezone": "Asia/Shanghai", "shifts": [{"days": "mon-fri", "from": "09:00", "to": "18:00"}]}


def at(text: str, zone: str = "Asia/Shanghai") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def hours(**changes: Any) -> Hours:
    return Hours.model_validate({**OFFICE, **changes})


@pytest.mark.parametrize(
    ("when", "open_"),
    [
        ("2026-11-27 09:00", True),  # a Friday
        ("2026-11-27 08:59", False),
        ("2026-11-27 17:59", True),
        ("2026-11-27 18:00", False),
        ("2026-11-28 12:00", False),
    ],
)
def test_they_are_there_in_their_hours(when: str, open_: bool) -> None:
    assert hours().is_open(at(when)) is open_


def test_without_shifts_they_always_are() -> None:
    assert Hours().is_open(0.0)
    assert Hours().next_open(5.0) == 5.0
    assert Hours().after(5.0, 60.0) == 65.0


def test_the_next_opening_skips_weekends_and_days_off() -> None:
    assert hours().next_open(at("2026-11-27 18:30")) == at("2026-11-30 09:00")
    closed = hours(closed=["2026-11-30"])
    assert closed.next_open(at("2026-11-27 18:30")) == at("2026-12-01 09:00")
    assert hours().next_open(at("2026-11-27 10:00")) == at("2026-11-27 10:00")


def test_only_open_time_counts() -> None:
    assert hours().after(at("2026-11-27 17:55"), 600) == at("2026-11-30 09:05")
    assert hours().after(at("2026-11-28 03:00"), 600) == at("2026-11-30 09:10")


def test_a_shift_to_midnight_joins_the_next_day() -> None:
    night = hours(
        shifts=[
            {"days": "mon", "from": "22:00", "to": "00:00"},
            {"days": "tue", "from": "00:00", "to": "02:00"},
        ]
    )
    assert night.after(at("2026-11-30 23:30"), 3600) == at("2026-12-01 00:30")
    assert night.is_open(at("2026-12-01 00:00"))


def test_clocks_that_change_make_a_night_shorter() -> None:
    """In New York 02:00 became 03:00 on 2026-03-08."""
    night = Hours.model_validate(
        {"timezone": "America/New_York", "shifts": [{"days": "sun", "from": "01:00", "to": "05:00"}]}
    )
    zone = "America/New_York"
    assert night.after(at("2026-03-08 01:30", zone), 3600) == at("2026-03-08 03:30", zone)


@given(
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    seconds=st.integers(1, 20 * 3600),
    zone=st.sampled_from(["Asia/Shanghai", "America/New_York", "Europe/Berlin", "Asia/Kolkata"]),
)
def test_so_much_open_time_has_passed_then(begin: datetime, seconds: int, zone: str) -> None:
    """Counted minute by minute."""
    open_ = hours(timezone=zone)
    start = begin.replace(second=0, microsecond=0, tzinfo=UTC).timestamp()
    seconds = -(-seconds // 60) * 60
    end = open_.after(start, seconds)
    assert end is not None
    minutes, now = 0, start
    step = timedelta(minutes=1).total_seconds()
    while now < end:
        minutes += open_.is_open(now)
        now += step
    assert minutes * 60 == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"timezone": "Mars/Olympus"},
        {"shifts": [{"days": "someday"}]},
        {"shifts": [{"from": "18:00", "to": "09:00"}]},
        {"shifts": [{"from": "25:00"}]},
        {"closed": ["yesterday"]},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        hours(**wrong)


def test_days_may_go_over_the_end_of_the_week() -> None:
    assert parse_days("fri-mon") == {4, 5, 6, 0}
    assert parse_days("Mon, wed") == {0, 2}
