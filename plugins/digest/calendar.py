"""When digests are due: cron times in a time zone, holidays, changes of clocks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bot import cron_trigger

LONGEST = 40 * 86400.0
"""Seconds that are looked back for times that were missed."""


def check_cron(cron: str) -> str:
    """The text itself. Raises ValueError."""
    try:
        cron_trigger(cron)
    except ValueError as error:
        raise ValueError(
            f"the cron string {cron!r} is not usable: {error}; write it like '0 18 * * 1-5'"
        ) from error
    return cron


def check_zone(name: str) -> str:
    """The name itself. Raises ValueError."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"there is no time zone {name!r}; write one like Asia/Shanghai") from error
    return name


def check_country(code: str) -> str:
    """The code itself. Raises ValueError."""
    import holidays

    if code not in holidays.list_supported_countries():
        raise ValueError(f"no public holidays are known of {code!r}; write a code like CN or DE")
    return code


def due_times(cron: str, zone: str, after: float, until: float) -> Iterator[float]:
    """Unix times of a cron string after one and up to another, each wall-clock time once.

    Where clocks go back a time that comes twice counts the first time; where they go forward one that is
    left out counts when they have.
    """
    timezone = ZoneInfo(zone)
    trigger = cron_trigger(cron, timezone)
    now = datetime.fromtimestamp(max(after, until - LONGEST) + 1, UTC)
    last = datetime.fromtimestamp(after, timezone).replace(tzinfo=None)
    while True:
        found = trigger.get_next_fire_time(None, now)
        if found is None or found.timestamp() > until:
            return
        now = found.astimezone(UTC) + timedelta(seconds=1)
        wall = found.astimezone(timezone).replace(tzinfo=None, fold=0)
        if wall > last:
            last = wall
            yield found.timestamp()


def is_holiday(at: float, zone: str, days: Collection[date], country: str | None) -> bool:
    """Whether a unix time falls on a day off there."""
    day = datetime.fromtimestamp(at, ZoneInfo(zone)).date()
    return day in days or (country is not None and day in _public(country, day.year))


@lru_cache(maxsize=64)
def _public(country: str, year: int) -> frozenset[date]:
    import holidays

    return frozenset(holidays.country_holidays(country, years=year))
