"""Jobs at cron times: what `@plugin.schedule("0 9 * * *")` needs, on APScheduler 3.

Cron strings have the five fields of crontab(5) and its meaning: Sunday is 0 or 7, and where both day fields
are restricted, either one is enough.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from bot.errors import ConfigError
from bot.logs import bind_trace, new_trace

log = structlog.get_logger(__name__)
Job = Callable[[], Awaitable[object]]

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?", re.ASCII)


class Scheduler:
    """Runs jobs of plugins at cron times; each job at most once at a time, missed runs folded into one."""

    def __init__(self, timezone: str | None = None, *, misfire_grace: int = 300) -> None:
        """`timezone`: a zone's name, None for the machine's; `misfire_grace`: seconds a run may be late."""
        self._timezone = ZoneInfo(timezone) if timezone else None
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": misfire_grace}
        self._scheduler = AsyncIOScheduler(job_defaults=defaults)
        self._plugins: dict[str, str] = {}
        self._running: set[asyncio.Task[None]] = set()

    def add(self, name: str, cron: str, job: Job, *, plugin: str, timezone: str | None = None) -> None:
        """Run `job` at the times of `cron`, in the plugin's time zone where it names one; `name` is unique.

        Raises ConfigError for a wrong cron string or zone.
        """
        try:
            trigger = cron_trigger(cron, ZoneInfo(timezone) if timezone else self._timezone)
        except (ValueError, ZoneInfoNotFoundError) as error:
            raise ConfigError(
                f"the cron string {cron!r} of {name} is not usable: {error}",
                key=f"plugins.{plugin}",
                remedy="write minute, hour, day, month and weekday, such as '0 9 * * 1-5'",
            ) from error
        self._plugins[name] = plugin
        self._scheduler.add_job(
            self._run, trigger, args=(name, plugin, job), id=name, name=name, replace_existing=True
        )

    def clear(self) -> None:
        """Forget all jobs; those that run go on to their end."""
        self._plugins.clear()
        self._scheduler.remove_all_jobs()

    def trigger(self, name: str) -> None:
        """Let a job run now, besides its times; KeyError for an unknown name."""
        if name not in self._plugins:
            raise KeyError(name)
        self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def start(self) -> None:
        """Begin to run jobs on the running loop."""
        self._scheduler.start()

    async def stop(self, timeout: float = 10.0) -> None:
        """Start nothing more, wait up to `timeout` seconds for running jobs, then cancel them."""
        if not self._scheduler.running:
            return
        self._scheduler.pause()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._scheduler.shutdown(wait=False)
        await asyncio.sleep(0)  # APScheduler shuts down in a callback of the loop

    async def _run(self, name: str, plugin: str, job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with bind_trace(new_trace(), job=name, plugin=plugin):
            try:
                await job()
            except (
                asyncio.CancelledError
            ):  # by stop(): the task ends here, APScheduler would call it an error
                log.warning("scheduled job was cut off", plugin=plugin, job=name)
            except Exception:
                log.exception("scheduled job failed", plugin=plugin, job=name)
            finally:
                self._running.discard(task)


def cron_trigger(cron: str, timezone: tzinfo | None = None) -> BaseTrigger:
    """The trigger of a five-field cron string; raises ValueError, also for one that never fires."""
    fields = cron.split()
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields, not 5")
    minute, hour, day, month, weekday = fields
    names = _weekdays(weekday)

    def at(day: str, day_of_week: str) -> CronTrigger:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=day_of_week, timezone=timezone
        )

    trigger: BaseTrigger = at(day, names)
    if not day.startswith("*") and not weekday.startswith("*"):
        trigger = OrTrigger([at(day, "*"), at("*", names)])
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ValueError("it never fires")
    return trigger


def _weekdays(field: str) -> str:
    """crontab's weekdays as names: APScheduler 3 counts from Monday, and takes no range across Sunday."""
    if field == "*":
        return field
    days: set[int] = set()
    for part in field.lower().split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise ValueError(f"{part!r} is no weekday")
        step = int(match["step"] or 1)
        if not step:
            raise ValueError("a step of 0 goes nowhere")
        if match["first"] == "*":
            first, last = 0, 6
        else:
            first = _weekday(match["first"])
            last = _weekday(match["last"]) if match["last"] else (6 if match["step"] else first)
        if last < first:  # fri-mon goes over the end of the week
            last += 7
        days.update(day % 7 for day in range(first, last + 1, step))
    return ",".join(_WEEKDAYS[day] for day in sorted(days))


def _weekday(text: str) -> int:
    if text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise ValueError(f"{text!r} is no weekday")
