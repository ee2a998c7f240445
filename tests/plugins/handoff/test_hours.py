"""Business hours: read from lines, right over weekends, holidays, nights and clock changes."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.handoff.hours import DAYS, Hours, HoursConfig

SHANGHAI, BERLIN = "Asia/Shanghai", "Europe/Berlin"


def at(text: str, zone: str = SHANGHAI) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def hours(*lines: str, zone: str = SHANGHAI, holidays: tuple[date, ...] = ()) -> Hours:
    return Hours(HoursConfig(timezone=zone, open=list(lines), holidays=list(holidays)))


WEEK = hours("mon-fri 09:00-12:00,13:30-18:00", "sat 10:00-16:00")


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        ("2026-11-27 08:59", "2026-11-27 09:00"),  # a Friday
        ("2026-11-27 09:00", "2026-11-27 09:00"),
        ("2026-11-27 12:00", "2026-11-27 13:30"),
        ("2026-11-27 18:00", "2026-11-28 10:00"),
        ("2026-11-28 16:00", "2026-11-30 09:00"),
    ],
)
def test_when_people_are_there_next(now: str, opening: str) -> None:
    assert WEEK.opening(at(now)) == at(opening)
    assert WEEK.is_open(at(now)) is (now == opening)


def test_holidays_are_closed_and_a_date_of_its_own_is_open_all_the_same() -> None:
    golden = tuple(date(2026, 10, day) for day in range(1, 8))
    shop = hours("mon-fri 09:00-18:00", "2026-10-07 10:00-12:00", "2026-10-10 09:00-18:00", holidays=golden)
    assert shop.opening(at("2026-09-30 18:00")) == at("2026-10-07 10:00")
    assert shop.opening(at("2026-10-07 12:00")) == at("2026-10-08 09:00")
    assert shop.opening(at("2026-10-09 18:00")) == at("2026-10-10 09:00")


def test_a_night_shift_ends_on_the_next_day() -> None:
    night = hours("fri 22:00-06:00")
    assert night.is_open(at("2026-11-28 05:59"))
    assert not night.is_open(at("2026-11-28 06:00"))
    assert hours("sat-mon 09:00-10:00").opening(at("2026-11-27 12:00")) == at("2026-11-28 09:00")


def test_clocks_stand_still_while_nobody_is_there() -> None:
    assert WEEK.after(at("2026-11-27 17:50"), 1200) == at("2026-11-28 10:10")
    assert WEEK.after(at("2026-11-27 11:50"), 1200) == at("2026-11-27 13:40")
    assert WEEK.after(at("2026-11-28 20:00"), 60) == at("2026-11-30 09:01")


def test_opening_follows_the_clock_on_the_wall_when_it_changes() -> None:
    shop = hours("mon-sun 09:00-10:00", zone=BERLIN)
    before, after = at("2026-10-24 09:00", BERLIN), at("2026-10-25 09:00", BERLIN)
    assert after - before == 25 * 3600
    assert shop.opening(before + 3600) == after
    assert shop.after(before, 5400) == after + 1800


def test_without_lines_people_are_always_there_and_with_the_past_only_never() -> None:
    always, never = Hours(HoursConfig()), hours("2020-01-01 09:00-10:00")
    assert (always.opening(5.0), always.after(5.0, 60)) == (5.0, 65.0)
    assert never.opening(at("2026-11-27 09:00")) is None
    assert never.after(at("2026-11-27 09:00"), 60) is None


@pytest.mark.parametrize(
    "line",
    [
        *("", "mon", "09:00-18:00", "mon 9-18", "mon 18:00-18:00", "mon 25:00-26:00", "mon 09:60-10:00"),
        *("funday 09:00-18:00", "mon-fri 09:00-18:00;", "2026-13-01 09:00-18:00", "mon 09:00-24:30"),
    ],
)
def test_what_is_no_opening_time_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        HoursConfig(open=[line])


def test_what_is_no_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="no time zone"):
        HoursConfig(timezone="Mars/Olympus")


LINES = st.builds(
    lambda day, begin, length: f"{day} {begin:02}:30-{begin + length:02}:15",
    st.sampled_from(DAYS),
    st.integers(0, 11),
    st.integers(1, 12),
)


@example(lines=["sun 02:30-03:15"], start=0, quarters=28, zone="America/New_York")
@given(
    lines=st.lists(LINES, min_size=1, max_size=4),
    start=st.integers(0, 2 * 365 * 24 * 4),
    quarters=st.integers(1, 150),
    zone=st.sampled_from([SHANGHAI, BERLIN, "America/New_York"]),
)
def test_a_clock_counts_open_time_and_nothing_else(
    lines: list[str], start: int, quarters: int, zone: str
) -> None:
    shop = hours(*lines, zone=zone)
    begin = at("2025-01-01 00:00") + start * 900
    due = shop.after(begin, quarters * 900)
    assert due is not None
    moments = [begin + 900 * n for n in range(round((due - begin) / 900))]
    assert sum(map(shop.is_open, moments)) == quarters
