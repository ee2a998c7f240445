"""Business hours: when people are there, when they are back, and clocks that stand still meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_AHEAD = 400
"""Days that are looked ahead: longer than any year with its holidays."""
_DAY = rf"(?:{'|'.join(DAYS)})"
_LINE = re.compile(
    rf"(?P<days>{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*|\d{{4}}-\d\d-\d\d) +(?P<times>[\d:,\- ]+)"
)
_TIMES = re.compile(r"(\d{1,2}):(\d\d) *- *(\d{1,2}):(\d\d)")

Span = tuple[int, int]
"""From one minute of a day to another, that of the next day beyond 1440."""


@dataclass(frozen=True, slots=True)
class OpenLine:
    """One line: the weekdays (0 is Monday) or the one date on which it holds, and the spans then."""

    weekdays: frozenset[int]
    day: date | None
    spans: tuple[Span, ...]


def read_line(text: str) -> OpenLine:
    """What "mon-fri 09:00-12:00,13:30-18:00" or "2026-10-10 09:00-18:00" says. Raises ValueError."""
    found = _LINE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no opening time; write it like mon-fri 09:00-12:00,13:30-18:00")
    spans = tuple(_span(part, text) for part in found["times"].split(","))
    if found["days"][0].isdigit():
        return OpenLine(frozenset(), date.fromisoformat(found["days"]), spans)
    days = set[int]()
    for part in found["days"].split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days.update(day % 7 for day in range(begin, end + 1 + 7 * (end < begin)))
    return OpenLine(frozenset(days), None, spans)


def _span(part: str, text: str) -> Span:
    found = _TIMES.fullmatch(part.strip())
    if found is None:
        raise ValueError(f"{part.strip()!r} in {text!r} is no span of time; write it like 09:00-18:00")
    hour, minute, to_hour, to_minute = map(int, found.groups())
    begin, end = hour * 60 + minute, to_hour * 60 + to_minute
    if minute > 59 or to_minute > 59 or begin >= 1440 or end > 1440 or begin == end:
        raise ValueError(
            f"{part.strip()!r} in {text!r}: times are 00:00 to 24:00, and something lies between"
        )
    return begin, end if end > begin else end + 1440


def _line(text: str) -> str:
    read_line(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError):
        raise ValueError(f"{name!r} is no time zone; write one like Asia/Shanghai") from None
    return name


class HoursConfig(BaseModel, extra="forbid"):
    """When people are there; a date's own line stands above its weekday and above holidays."""

    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    open: list[Annotated[str, AfterValidator(_line)]] = []
    holidays: list[date] = []


class Hours:
    """The opening times of people; without any line they are always there. Times are unix times."""

    def __init__(self, config: HoursConfig) -> None:
        lines = [read_line(text) for text in config.open]
        self._zone: tzinfo | None = ZoneInfo(config.timezone) if config.timezone else None
        self._always = not lines
        self._holidays = frozenset(config.holidays)
        self._by_date = {line.day: line.spans for line in lines if line.day}
        self._by_weekday = {
            day: tuple(span for line in lines if day in line.weekdays for span in line.spans)
            for day in range(7)
        }

    def is_open(self, at: float) -> bool:
        """Whether people are there."""
        return self.opening(at) == at

    def opening(self, at: float) -> float | None:
        """When people are there next: now where they are; None where they never will be."""
        if self._always:
            return at
        return next((max(begin, at) for begin, _ in self._windows(at)), None)

    def after(self, at: float, seconds: float) -> float | None:
        """When people will have been there for so long since `at`; None where a year is not enough."""
        if self._always:
            return at + seconds
        for begin, end in self._windows(at):
            begin = max(begin, at)
            if end - begin >= seconds:
                return begin + seconds
            seconds -= end - begin
        return None

    def local(self, at: float) -> datetime:
        """The wall clock there."""
        return datetime.fromtimestamp(at, self._zone)

    def _windows(self, at: float) -> Iterator[tuple[float, float]]:
        """Open windows that end after `at`, in order and apart."""
        today = self.local(at).date()
        last: tuple[float, float] | None = None
        for ahead in range(-1, _AHEAD):
            for begin, end in self._of(today + timedelta(days=ahead)):
                if last is not None and begin <= last[1]:
                    last = last[0], max(last[1], end)
                    continue
                if last is not None and last[1] > at:
                    yield last
                last = begin, end
        if last is not None and last[1] > at:
            yield last

    def _of(self, day: date) -> list[tuple[float, float]]:
        spans = self._by_date.get(day)
        if spans is None:
            spans = () if day in self._holidays else self._by_weekday[day.weekday()]
        return sorted((self._at(day, begin), self._at(day, end)) for begin, end in spans)

    def _at(self, day: date, minute: int) -> float:
        """The unix time of a minute on the wall; one that a clock change skips is the moment after it."""
        days, rest = divmod(minute, 1440)
        wall = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), self._zone)
        while self.local(wall.timestamp()).replace(tzinfo=None) != wall.replace(tzinfo=None):
            wall += timedelta(minutes=1)
        return wall.timestamp()
