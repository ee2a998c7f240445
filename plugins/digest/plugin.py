"""Digests at fixed times: what was asked, what went unanswered, what changed; and the same in /metrics.

Every minute the process that leads looks for what is due since the last one that was sent, so that neither
a restart nor a change of clocks loses one or doubles it. Times that were missed are sent as one, marked late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time
from uuid import uuid4

import structlog

from bot import Answered, Catalogue, Channels, Memory, Metrics
from bot.retrieval import Index
from bot.store import QUARTER, Step, Store, Tally
from model.types import ChatModel
from plugins.digest.base import Config, Digest, plugin
from plugins.digest.calendar import due_times, is_holiday
from plugins.digest.counting import counted
from plugins.digest.gauges import WINDOWS, Gauges
from plugins.digest.numbers import collect
from plugins.digest.sending import Press
from plugins.digest.tables import Runs

log = structlog.get_logger(__name__)
LATE = 600.0
"""Seconds after which a digest is late."""
KEPT = 400 * 86400.0


@dataclass(slots=True)
class State:
    """This process among those that share the database, and what it shows in /metrics."""

    holder: str = field(default_factory=lambda: uuid4().hex)
    gauges: Gauges = field(default_factory=Gauges)
    shown: bool = False


@plugin.startup
async def start(memory: Memory, metrics: Metrics, store: Store, config: Config) -> None:
    """Show the numbers in /metrics; a digest that is new begins now."""
    state = memory.keep("state", State)
    if not state.shown:
        metrics.include(state.gauges)
        state.shown = True
    await refresh(memory, store)
    runs = Runs(store)
    for digest in config.digests:
        if await runs.last(digest.name) is None:
            now = time()
            await runs.done(digest.name, now, now)


@plugin.answered
def count(answered: Answered) -> list[Step]:
    """Count every question with its answer."""
    return counted(answered)


@plugin.schedule("* * * * *")
async def refresh(memory: Memory, store: Store) -> None:
    """Bring /metrics up to date."""
    gauges, until = memory.keep("state", State).gauges, _end_of_quarter(time())
    for window, seconds in WINDOWS.items():
        gauges.numbers[window] = await collect(Tally(store), until - seconds, until, zone="UTC", lists=False)


@plugin.schedule("* * * * *")
async def tick(
    store: Store,
    memory: Memory,
    channels: Channels,
    catalogue: Catalogue,
    index: Index,
    model: ChatModel | None,
    config: Config,
) -> None:
    """Send what is due or asked for, where this process leads."""
    runs, now = Runs(store), time()
    if not config.digests or not await runs.leads(memory.keep("state", State).holder, now):
        return
    press = Press(Tally(store), catalogue, index.encoder, model)
    for digest in config.digests:
        try:
            await _send_due(digest, runs, press, channels, now)
        except Exception:
            log.exception("a digest failed", digest=digest.name)
    by_name = {digest.name: digest for digest in config.digests}
    for name, at in await runs.asked():
        if name in by_name:
            await press.send(by_name[name], await runs.last(name) or at, at, channels)
        await runs.done(name, at, now, asked=True)
    await runs.expire(now - KEPT)


async def _send_due(digest: Digest, runs: Runs, press: Press, channels: Channels, now: float) -> None:
    last = await runs.last(digest.name)
    if last is None:
        return
    due = [
        at
        for at in due_times(digest.cron, digest.timezone, last, now)
        if not is_holiday(at, digest.timezone, digest.holidays, digest.country)
    ]
    if not due:
        return
    if len(due) > 1:
        log.warning("digests were missed, and are sent as one", digest=digest.name, missed=len(due))
    late = now - due[-1] > LATE
    await press.send(digest, last, due[-1], channels, late=late or len(due) > 1)
    await runs.done(digest.name, due[-1], now)


def _end_of_quarter(at: float) -> float:
    """Counts are by quarters of an hour: the one that runs is told, too."""
    return (at // QUARTER + 1) * QUARTER
