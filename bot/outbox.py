"""Durable sends: one in flight per chat, retried until the platform has them, marked once it does."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from bot.connectors.base import Connector
from bot.errors import ConnectorError, StoreError, Undeliverable
from bot.metrics import Metrics
from bot.metrics import Outcome as Sent
from bot.reply import Outgoing
from bot.store.outbox import OutboxTable

log = structlog.get_logger(__name__)
JITTER = 1.2
SHORT = 2.0
"""Seconds that a stopping bot still waits for a retry."""
STALLED = 4.0
"""Seconds without any part settled after which a stopping bot waits no longer: its platforms are away."""
LAST_CALLS = 1.0
"""Seconds that calls in flight get at the very end before they are broken off."""
_Lane = tuple[str, str, str]


class Outbox:
    """Sends committed parts, one at a time and in order for each chat."""

    def __init__(
        self,
        table: OutboxTable,
        connectors: Mapping[tuple[str, str], Connector],
        metrics: Metrics,
    ) -> None:
        self._table = table
        self._connectors = connectors
        self._metrics = metrics
        self._lanes: dict[_Lane, deque[tuple[Outgoing, float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: Counter[tuple[str, str]] = Counter()
        self._draining = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many parts are not settled yet."""
        return self._pending.total()

    def pending_of(self, connector: str, bot: str) -> int:
        """How many parts of one bot are not settled yet."""
        return self._pending[connector, bot]

    def submit(self, parts: Iterable[Outgoing], created_at: float | None = None) -> None:
        """Take parts whose rows are committed; their order per chat is kept."""
        now = created_at if created_at is not None else time.time()
        for part in parts:
            lane = (part.target.connector, part.target.bot, part.target.chat)
            self._pending[lane[0], lane[1]] += 1
            queue = self._lanes.get(lane)
            if queue is not None:
                queue.append((part, now))
                continue
            self._lanes[lane] = deque([(part, now)])
            task = asyncio.create_task(self._run(lane), name=f"outbox {lane[0]}:{lane[1]}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def recover(self) -> int:
        """Take up what an earlier process left unsent; returns the number of parts."""
        count = 0
        async for part, created_at in self._table.unsent():
            if (part.target.connector, part.target.bot) in self._connectors:
                self.submit([part], created_at)
                count += 1
        return count

    async def drain(self, timeout: float) -> bool:
        """Send what can be sent now; what has to wait long for a retry stays in the store. True if empty."""
        self._draining.set()
        deadline = time.monotonic() + timeout
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            before = self.pending
            await asyncio.wait(set(self._tasks), timeout=min(STALLED, left))
            if self.pending == before:
                break
        self._closing.set()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LAST_CALLS)
        running = set(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return self.pending == 0

    async def _run(self, lane: _Lane) -> None:
        queue = self._lanes[lane]
        connector = self._connectors.get((lane[0], lane[1]))
        try:
            while queue and not self._closing.is_set():
                part, created_at = queue[0]
                if connector is not None and not await self._deliver(connector, part, created_at):
                    return
                queue.popleft()
                self._pending[lane[0], lane[1]] -= 1
        finally:
            del self._lanes[lane]

    async def _deliver(self, connector: Connector, part: Outgoing, created_at: float) -> bool:
        """Send until it is settled; False when the bot stops first."""
        schedule = connector.capabilities.retry_schedule
        attempt = 0
        doubted_since: float | None = None
        while not self._closing.is_set():
            patience = None
            try:
                platform_id = await connector.send(part)
            except Undeliverable as error:
                return await self._settle(connector, part, error=error.problem)
            except ConnectorError as error:
                delay, problem, patience = error.retry_after, error.problem, error.patience
            except Exception as error:
                log.exception("send failed", connector=connector.kind, bot=connector.name, outbox=part.id)
                delay, problem = None, type(error).__name__
            else:
                return await self._settle(connector, part, platform_id=platform_id)
            too_old = time.time() - created_at > connector.capabilities.give_up_after
            if patience is not None:
                doubted_since = doubted_since or time.monotonic()
                too_old = too_old or time.monotonic() - doubted_since >= patience
            if too_old:
                return await self._settle(connector, part, error=f"given up: {problem}")
            self._metrics.sends.labels(connector.name, Sent.RETRIED).inc()
            if delay is None:
                delay = schedule[min(attempt, len(schedule) - 1)] * random.uniform(1.0, JITTER)
            log.warning(
                "send will be retried",
                connector=connector.kind,
                bot=connector.name,
                outbox=part.id,
                problem=problem,
                delay=round(delay, 1),
            )
            attempt += 1
            if await _happens(self._closing if delay <= SHORT else self._draining, delay):
                return False
        return False

    async def _settle(
        self,
        connector: Connector,
        part: Outgoing,
        *,
        platform_id: str | None = None,
        error: str | None = None,
    ) -> bool:
        """Commit the outcome, again and again if need be: sending twice would be worse than waiting."""
        if error is not None:
            log.error(
                "send failed for good",
                connector=connector.kind,
                bot=connector.name,
                outbox=part.id,
                problem=error,
            )
        self._metrics.sends.labels(connector.name, Sent.FAILED if error else Sent.SENT).inc()
        while True:
            try:
                await self._table.settle(part.id, platform_id=platform_id, error=error)
            except StoreError as problem:
                log.error("cannot mark a part as sent", outbox=part.id, problem=str(problem))
                if self._closing.is_set():
                    return False
                await _happens(self._closing, 1.0)
            else:
                return True


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set within so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def numbered(parts: Iterable[Outgoing], ids: Mapping[str, int]) -> list[Outgoing]:
    """The parts that were inserted, with their row ids; an earlier run's are on their way already."""
    return [replace(part, id=ids[part.key]) for part in parts if part.key in ids]
