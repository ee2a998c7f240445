"""Cron jobs: crontab's meaning, one run at a time, a drained stop, errors that name the plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bot.errors import ConfigError
from bot.scheduler import Scheduler, cron_trigger

FIXED = timezone(timedelta(hours=8))
NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@pytest.fixture
async def scheduler() -> Any:
    scheduler = Scheduler("UTC")
    scheduler.start()
    yield scheduler
    await scheduler.stop(timeout=0)


def field(low: int, high: int) -> st.SearchStrategy[tuple[str, set[int]]]:
    """A cron field and the values it stands for."""
    ordered = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return st.one_of(
        st.just(("*", set(range(low, high + 1)))),
        st.integers(low, high).map(lambda value: (str(value), {value})),
        ordered.map(lambda pair: (f"{pair[0]}-{pair[1]}", set(range(pair[0], pair[1] + 1)))),
        st.tuples(ordered.filter(lambda pair: pair[1] - pair[0] >= 5), st.integers(1, 5)).map(
            lambda item: (
                f"{item[0][0]}-{item[0][1]}/{item[1]}",
                set(range(item[0][0], item[0][1] + 1, item[1])),
            )
        ),
        st.sets(st.integers(low, high), min_size=1, max_size=4).map(
            lambda values: (",".join(map(str, values)), values)
        ),
    )


@settings(deadline=None)
@given(
    field(0, 59),
    field(0, 23),
    field(1, 31),
    field(0, 7),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
)
def test_a_cron_string_fires_when_crontab_says(
    minute: Any, hour: Any, day: Any, weekday: Any, now: datetime
) -> None:
    trigger = cron_trigger(f"{minute[0]} {hour[0]} {day[0]} * {weekday[0]}", FIXED)
    now = now.replace(tzinfo=FIXED)
    fires = trigger.get_next_fire_time(None, now)
    assert fires is not None
    days = {value % 7 for value in weekday[1]}

    def matches(moment: datetime) -> bool:
        checks = [moment.day in day[1], moment.isoweekday() % 7 in days]
        either = day[0] != "*" and weekday[0] != "*"
        in_time = moment.minute in minute[1] and moment.hour in hour[1]
        return in_time and (any(checks) if either else all(checks))

    assert matches(fires)
    assert fires >= now
    for skipped in minutes_between(now, fires):
        assert not matches(skipped)


def minutes_between(start: datetime, end: datetime) -> Iterator[datetime]:
    """Whole minutes from `start` to before `end`: at most a week of them on each side."""
    first = start.replace(second=0, microsecond=0)
    first += timedelta(minutes=1) if first < start else timedelta()
    count = int((end - first) / timedelta(minutes=1))
    week = 7 * 24 * 60
    for index in (*range(min(count, week)), *range(max(count - week, 0), count)):
        yield first + timedelta(minutes=index)


@pytest.mark.parametrize(
    ("weekday", "fires_on"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1", "mon"),
        ("SAT", "sat"),
        ("fri-mon", "fri sat sun mon"),
        ("5-7", "fri sat sun"),
    ],
)
def test_weekdays_are_crontabs(weekday: str, fires_on: str) -> None:
    trigger = cron_trigger(f"0 9 * * {weekday}", FIXED)
    now, seen = datetime(2025, 1, 1, tzinfo=FIXED), set()
    for _ in range(7):
        fires = trigger.get_next_fire_time(None, now)
        assert fires is not None
        seen.add(NAMES[fires.isoweekday() % 7])
        now = fires + timedelta(minutes=1)
    assert seen == set(fires_on.split())


def test_times_are_those_of_the_zone() -> None:
    fires = cron_trigger("0 9 * * *", ZoneInfo("Asia/Shanghai")).get_next_fire_time(
        None, datetime(2025, 1, 1, tzinfo=UTC)
    )
    assert fires == datetime(2025, 1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "x * * * *",
        "*/0 * * * *",
        "0 9 * * 8",
        "0 9 * * mo",
        "0 9 * * */0",
        "0 9 * * 1-",
        "0 9 31 2 *",
        "9-8 * * * *",
        "@daily",
    ],
)
def test_a_wrong_cron_string_is_named(cron: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Scheduler("UTC").add("digest.weekly", cron, asyncio.Event().wait, plugin="digest")
    assert repr(cron) in str(caught.value)
    assert caught.value.key == "plugins.digest"


async def test_a_job_runs_through_the_scheduler(scheduler: Scheduler) -> None:
    ran = asyncio.Event()

    async def job() -> None:
        ran.set()

    scheduler.add("a.job", "0 0 1 1 *", job, plugin="a")
    scheduler.trigger("a.job")
    await asyncio.wait_for(ran.wait(), 10)


async def test_a_failing_job_is_logged_with_its_plugin_and_runs_again(scheduler: Scheduler) -> None:
    ran = asyncio.Queue[None]()

    async def job() -> None:
        ran.put_nowait(None)
        raise RuntimeError("no paper")

    scheduler.add("printer.daily", "0 0 1 1 *", job, plugin="printer")
    with capture_logs() as lines:
        for _ in range(2):
            scheduler.trigger("printer.daily")
            await asyncio.wait_for(ran.get(), 10)
        await scheduler.stop()
    failed = [line for line in lines if line["log_level"] == "error"]
    assert [(line["plugin"], line["job"]) for line in failed] == [("printer", "printer.daily")] * 2


async def test_stop_waits_for_running_jobs_and_starts_no_more(scheduler: Scheduler) -> None:
    started, go, done = asyncio.Event(), asyncio.Event(), []

    async def job() -> None:
        started.set()
        await go.wait()
        done.append(True)

    scheduler.add("a.job", "0 0 1 1 *", job, plugin="a")
    scheduler.trigger("a.job")
    await asyncio.wait_for(started.wait(), 10)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    go.set()
    await stopping
    assert done == [True]


async def test_stop_cancels_what_does_not_end(scheduler: Scheduler) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    scheduler.add("a.job", "0 0 1 1 *", job, plugin="a")
    scheduler.trigger("a.job")
    await asyncio.wait_for(started.wait(), 10)
    with capture_logs() as lines:
        await scheduler.stop(timeout=0)
    assert cancelled.is_set()
    assert [(line["event"], line["plugin"]) for line in lines] == [("scheduled job was cut off", "a")]


async def test_cleared_jobs_are_gone(scheduler: Scheduler) -> None:
    scheduler.add("a.one", "0 0 1 1 *", asyncio.Event().wait, plugin="a")
    scheduler.add("b.one", "0 0 1 1 *", asyncio.Event().wait, plugin="b")
    scheduler.clear()
    for name in ("a.one", "b.one"):
        with pytest.raises(KeyError):
            scheduler.trigger(name)
