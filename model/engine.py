"""Many answers at once on one device: one thread owns it, and each turn gives every running answer a token.

A turn reads slices of the prompts that have come, for about as long as a step takes, then makes the step: one
decode over all that answer. Askers live on event loops; what they hear goes there once a turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

import structlog

from model.desk import Desk, Job
from model.meters import Meters
from model.runner import Prompt, Runner
from model.scheduler import Limits
from model.types import ModelError
from model.worker import Worker

log = structlog.get_logger(__name__)

STUCK_AFTER = 120.0
"""Seconds in one operation of the device after which its worker counts as wedged."""
LOOK_EVERY = 1.0
STOP_WITHIN = 30.0


class Engine:
    """Shares a runner between askers on any number of event loops."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        *,
        meters: Meters | None = None,
        clock: Callable[[], float] = monotonic,
        stuck_after: float = STUCK_AFTER,
    ) -> None:
        self.meters = meters or Meters()
        self._desk = Desk(limits, self.meters, clock)
        self._clock = clock
        self._stuck_after = stuck_after
        self._ended = threading.Event()
        self._worker = Worker(runner, self._desk, self.meters, clock)
        self._watch = threading.Thread(target=self._watch_worker, name="model watchdog", daemon=True)
        self._watch.start()

    @property
    def problem(self) -> str:
        """Why it will not answer any more; empty as long as it may."""
        return self._desk.problem

    def ask(self, prompt: Prompt, *, user: str, timeout: float | None = None) -> Job:
        """Put a prompt in the user's line; the running event loop hears of it. Raises ModelError."""
        return self._desk.ask(prompt, self._worker.runner.pages_for(prompt), user=user, timeout=timeout)

    def give_up(self, job: Job) -> None:
        """Nobody listens any more: its pages are free at the next turn."""
        self._desk.give_up(job)

    async def close(self) -> None:
        """Stop at the next turn; who still waits gets a ModelError."""
        self._ended.set()
        self._desk.close()
        await asyncio.to_thread(self._watch.join, STOP_WITHIN)  # it may be about to make another worker
        await asyncio.to_thread(self._worker.join, STOP_WITHIN)

    def _watch_worker(self) -> None:
        """Replace a worker that is stuck in the device; what it had taken on fails, what waits goes on."""
        while not self._ended.wait(min(LOOK_EVERY, self._stuck_after / 4)):
            worker = self._worker
            since = worker.busy_since
            if since is None or self._clock() - since < self._stuck_after:
                continue
            log.error("the model is stuck, and starts anew", seconds=round(self._clock() - since))
            self.meters.restarts.inc()
            worker.retire()
            self._desk.fail_resident(
                ModelError("the model was stuck and had to start anew", remedy="ask again")
            )
            try:
                self._worker = Worker(worker.runner.renew(), self._desk, self.meters, self._clock)
            except Exception as error:
                log.exception("the model could not start anew")
                self._desk.close(ModelError(f"the model is stuck: {error}", remedy="restart the bot"))
                return
