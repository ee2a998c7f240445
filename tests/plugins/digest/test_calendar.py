"""When digests are due, over changes of clocks and holidays."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.digest.calendar import check_country, check_cron, check_zone, due_times, is_holiday


def at(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def local(times: list[float], zone: str) -> list[str]:
    return [f"{datetime.fromtimestamp(one, ZoneInfo(zone)):%m-%d %H:%M}" for one in times]


@pytest.mark.parametrize(
    ("zone", "cron", "begin", "days"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-27 12:00", 5),  # 02:30 is left out on 03-29
        ("Europe/Berlin", "30 2 * * *", "2026-10-23 12:00", 5),  # and comes twice on 10-25
        ("America/New_York", "30 1 * * *", "2026-10-30 12:00", 4),
        ("America/New_York", "15 2 * * *", "2026-03-06 12:00", 4),
        ("Asia/Kolkata", "45 18 * * *", "2026-05-01 12:00", 3),
    ],
)
def test_each_day_has_one_whatever_clocks_do(zone: str, cron: str, begin: str, days: int) -> None:
    start = at(begin, zone)
    times = list(due_times(cron, zone, start, start + days * 86400 + 3600))
    dates = [datetime.fromtimestamp(one, ZoneInfo(zone)).date() for one in times]
    first = datetime.fromtimestamp(start, ZoneInfo(zone)).date()
    assert dates == [first + timedelta(days=n + (dates[0] != first)) for n in range(len(dates))]
    assert len(dates) == days


@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Asia/Kolkata"]),
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),
    steps=st.lists(st.integers(60, 3 * 86400), min_size=1, max_size=8),
    cron=st.sampled_from(["0 18 * * *", "30 2 * * *", "0 9 * * 1-5", "15 * * * *"]),
)
def test_it_does_not_matter_when_one_looks(zone: str, begin: datetime, steps: list[int], cron: str) -> None:
    """Looking now and then finds the same times as looking once."""
    start = begin.replace(tzinfo=ZoneInfo("UTC")).timestamp()
    end = start + sum(steps)
    once = list(due_times(cron, zone, start, end))
    found, last, now = list[float](), start, start
    for step in steps:
        now += step
        for due in due_times(cron, zone, last, now):
            found.append(due)
            last = due
    assert found == once
    assert found == sorted(set(found))


def test_holidays_are_public_ones_and_those_that_are_listed() -> None:
    shanghai = "Asia/Shanghai"
    assert is_holiday(at("2026-10-01 18:00", shanghai), shanghai, [], "CN")
    assert not is_holiday(at("2026-10-01 18:00", shanghai), shanghai, [], None)
    assert is_holiday(at("2026-11-27 18:00", shanghai), shanghai, [date(2026, 11, 27)], None)
    assert not is_holiday(at("2026-11-27 18:00", shanghai), shanghai, [], "CN")


@pytest.mark.parametrize(
    ("check", "value"),
    [(check_cron, "daily"), (check_zone, "Mars"), (check_country, "ZZ"), (check_cron, "0 0 31 2 *")],
)
def test_what_makes_no_sense_is_refused(check, value: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"write|never fires"):
        check(value)
