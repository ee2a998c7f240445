"""When people are there: hours by weekday in a time zone, and days off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, model_validator

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOK_AHEAD = 400
"""Days in which an opening is looked for."""


def _days(text: str) -> str:
    parse_days(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"there is no time zone {name!r}; write one like Asia/Shanghai") from error
    return name


def parse_days(text: str) -> frozenset[int]:
    """Weekdays, Monday is 0, of "mon-fri" or "mon, wed, sat-sun". Raises ValueError."""
    found: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        match = re.fullmatch(r"([a-z]{3})(?:-([a-z]{3}))?", part)
        names = [name for name in match.groups() if name] if match else []
        if not names or not all(name in _DAYS for name in names):
            raise ValueError(f"{part!r} is no weekday; write them like mon-fri or sat,sun")
        first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
        found.update(day % 7 for day in range(first, last + 1 + 7 * (last < first)))
    return frozenset(found)


class Shift(BaseModel, extra="forbid"):
    """Hours of some weekdays; an end at 00:00 is midnight."""

    days: Annotated[str, AfterValidator(_days)] = "mon-fri"
    begin: time = Field(time(9), alias="from")
    end: time = Field(time(18), alias="to")

    @model_validator(mode="after")
    def _forward(self) -> Shift:
        if self.end != time(0) and self.end <= self.begin:
            raise ValueError("a shift ends after it begins; write one over midnight as two")
        return self


class Hours(BaseModel, extra="forbid"):
    """When people are there; without shifts they always are."""

    timezone: Annotated[str, AfterValidator(_zone)] = "Asia/Shanghai"
    shifts: list[Shift] = []
    closed: list[date] = []

    def is_open(self, at: float) -> bool:
        """Whether people are there at a unix time."""
        return not self.shifts or any(begin <= at < end for begin, end in self._spans(at))

    def next_open(self, at: float) -> float | None:
        """When people are there next, `at` itself while they are; None where they never come."""
        if self.is_open(at):
            return at
        return next((begin for begin, _ in self._spans(at) if begin > at), None)

    def after(self, at: float, seconds: float) -> float | None:
        """When so many seconds of open time will have passed; None where they never do."""
        if not self.shifts:
            return at + seconds
        for begin, end in self._spans(at):
            begin = max(begin, at)
            if end <= begin:
                continue
            if seconds <= end - begin:
                return begin + seconds
            seconds -= end - begin
        return None

    def local(self, at: float) -> datetime:
        """A unix time on the clocks there."""
        return datetime.fromtimestamp(at, ZoneInfo(self.timezone))

    def _spans(self, at: float) -> Iterator[tuple[float, float]]:
        """Open times in their order, from the day before `at` on; a change of clocks changes their length."""
        zone, day = ZoneInfo(self.timezone), self.local(at).date() - timedelta(days=1)
        shifts = [(parse_days(shift.days), shift.begin, shift.end) for shift in self.shifts]
        for _ in range(_LOOK_AHEAD):
            spans = [
                (_unix(day, begin, zone), _unix(day + timedelta(days=end == time(0)), end, zone))
                for days, begin, end in shifts
                if day.weekday() in days and day not in self.closed
            ]
            yield from sorted(spans)
            day += timedelta(days=1)


def _unix(day: date, at: time, zone: ZoneInfo) -> float:
    return datetime.combine(day, at, zone).astimezone(UTC).timestamp()
