"""Where askers and the worker of a device meet: who asks, who waits, and who is told what."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from model.meters import Meters
from model.runner import Prompt
from model.scheduler import Limits, Scheduler, Stage, Ticket
from model.types import ModelBusy, ModelError, ModelTimeout

Finish: TypeAlias = Literal["stop", "length"]
News: TypeAlias = int | Finish | ModelError
"""A token of the answer, or why no more follow."""
_Mail: TypeAlias = list[tuple[asyncio.Queue[News], News]]


@dataclass(eq=False, slots=True)
class Job:
    """A prompt on its way; `news` is what its asker hears."""

    prompt: Prompt
    ticket: Ticket
    loop: asyncio.AbstractEventLoop
    asked: float
    timeout: float | None
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    given_up: bool = False
    heard: float | None = None
    """When its latest token came."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests in line, requests that hold pages, and the pages that they have reserved."""

    waiting: int
    resident: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Turn:
    """left: resident ones that ended without the worker's doing; admitted: those to be opened."""

    left: list[Job]
    admitted: list[Job]


class Desk:
    """All of it may be called by any thread; news reach a loop when `deliver` is called."""

    def __init__(self, limits: Limits, meters: Meters, clock: Callable[[], float]) -> None:
        self._meters = meters
        self._clock = clock
        self._scheduler = Scheduler(limits)
        self._batch = limits.batch
        self._changed = threading.Condition()
        self._jobs: dict[Ticket, Job] = {}
        self._mail = defaultdict[asyncio.AbstractEventLoop, _Mail](list)
        self._left = list[Job]()
        self._refusal: ModelError | None = None
        meters.pages.set(limits.pages)
        meters.waiting.set_function(lambda: self.counts().waiting)
        meters.resident.set_function(lambda: self.counts().resident)
        meters.pages_reserved.set_function(lambda: self.counts().reserved)

    @property
    def problem(self) -> str:
        """Why nobody is let in any more; empty as long as somebody is."""
        return self._refusal.problem if self._refusal else ""

    # -- askers -----------------------------------------------------------------------------

    def ask(self, prompt: Prompt, pages: int, *, user: str, timeout: float | None) -> Job:
        """Join the user's line; the running event loop hears of it. Raises ModelError, also ModelBusy."""
        most, now = self._scheduler.limits.pages, self._clock()
        if pages > most:
            raise ModelError(
                f"prompt and answer may fill {pages} pages of the KV cache, which has {most}",
                remedy="ask for a shorter answer (max_new_tokens), or raise model.memory",
            )
        deadline = None if timeout is None else now + timeout
        ticket = Ticket(user, pages, len(prompt.ids), prompt.most, deadline)
        job = Job(prompt, ticket, asyncio.get_running_loop(), now, timeout)
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            try:
                self._scheduler.submit(ticket)
            except ModelBusy:
                self._meters.requests.labels("refused").inc()
                raise
            self._jobs[ticket] = job
            self._changed.notify_all()
        return job

    def give_up(self, job: Job) -> None:
        """Nobody listens any more."""
        with self._changed:
            if job.ticket.stage is not Stage.GONE:
                self._drop(job, "cancelled")
                self._changed.notify_all()

    def close(self, refusal: ModelError | None = None) -> None:
        """All that are here, and all that come, are told so; a worker ends at its next turn."""
        with self._changed:
            self._refusal = refusal or closed()
            for job in list(self._jobs.values()):
                self._tell(job, self._refusal)
                self._drop(job, "failed")
            self._changed.notify_all()
        self.deliver()

    # -- the worker -------------------------------------------------------------------------

    def next_turn(self, retired: Callable[[], bool]) -> Turn | None:
        """Wait until there is something to do; None when the worker shall end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._refusal or retired() or self._left or not self._scheduler.idle
            )
            if self._refusal or retired():
                return None
            for ticket in self._scheduler.overdue(self._clock()):
                job = self._jobs[ticket]
                self._tell(job, ModelTimeout(job.timeout or 0.0))
                self._drop(job, "overdue")
            left, self._left = self._left, []
            admitted = [self._jobs[ticket] for ticket in self._scheduler.admit()]
            return Turn(left, admitted)

    def has_read(self, jobs: Iterable[Job]) -> None:
        """Their prompts are in: steps give them tokens from now on."""
        with self._changed:
            for job in jobs:
                if job.ticket.stage is Stage.READING:
                    self._scheduler.has_read(job.ticket)

    def batch(self) -> list[Job]:
        """Those that the next step gives a token."""
        with self._changed:
            return [self._jobs[ticket] for ticket in self._scheduler.batch()]

    def served(self, jobs: Sequence[Job], tokens: Sequence[int], end: int) -> list[Job]:
        """A step gave each a token; returns those that ended with it, by the token `end` or by length."""
        now, ended, before = self._clock(), list[Job](), defaultdict[float, int](int)
        gone = Stage.GONE  # looked up once: this is the longest part of a turn
        with self._changed:
            here = [pair for pair in zip(jobs, tokens, strict=True) if pair[0].ticket.stage is not gone]
            self._scheduler.served([job.ticket for job, _ in here])
            loop = None
            for job, token in here:  # who was given up while the step ran is closed at the next turn
                ticket = job.ticket
                if job.heard is None:
                    self._meters.first_token.observe(now - job.asked)
                else:
                    before[job.heard] += 1  # most heard their latest token at the same time
                job.heard = now
                if job.loop is not loop:
                    loop = job.loop
                    mail = self._mail[loop]
                finish: Finish | None = None
                if token == end:
                    finish = "stop"
                else:
                    mail.append((job.news, token))
                    if ticket.answered >= ticket.most:
                        finish = "length"
                if finish is not None:
                    mail.append((job.news, finish))
                    self._scheduler.answered(ticket.answered)
                    self._end(job, "answered")
                    ended.append(job)
        self._meters.gap.observe((now - heard, count) for heard, count in before.items())
        return ended

    def fail(self, job: Job, error: ModelError) -> None:
        """It ends with this error; its pages are the worker's to give back."""
        with self._changed:
            if job.ticket.stage is not Stage.GONE:
                self._tell(job, error)
                self._end(job, "failed")

    def fail_resident(self, error: ModelError, *, unless: Callable[[], bool] = lambda: False) -> None:
        """All that a worker had taken on end, and what limited its steps: the next one begins afresh.

        unless: asked once nothing can happen meanwhile.
        """
        with self._changed:
            if unless():
                return
            self._left.clear()
            self._scheduler.limits = replace(self._scheduler.limits, batch=self._batch)
            for ticket, job in list(self._jobs.items()):
                if ticket.stage is not Stage.WAITING:
                    self._tell(job, error)
                    self._end(job, "failed")
            self._changed.notify_all()
        self.deliver()

    def measured(self, tokens: int, seconds: float) -> None:
        """A turn took that long for so many tokens, read or given."""
        with self._changed:
            self._scheduler.measured(tokens, seconds)

    def limit_batch(self, size: int) -> int | None:
        """Steps decode at most so many from now on; None says that this is no limit any more."""
        with self._changed:
            self._scheduler.limits = replace(self._scheduler.limits, batch=min(size, self._batch))
        return None if size >= self._batch else size

    def deliver(self) -> None:
        """Pass news on: one call for each loop, for that costs more than what it says."""
        with self._changed:
            mail, self._mail = self._mail, defaultdict(list)
        for loop, letters in mail.items():
            with suppress(RuntimeError):  # the loop is closed; its askers have given up, or will never hear
                loop.call_soon_threadsafe(_put, letters)

    def counts(self) -> Counts:
        """As they are at this moment."""
        with self._changed:
            return Counts(self._scheduler.waiting, self._scheduler.resident, self._scheduler.reserved)

    # -- under the lock ---------------------------------------------------------------------

    def _tell(self, job: Job, news: News) -> None:
        self._mail[job.loop].append((job.news, news))

    def _drop(self, job: Job, how: str) -> None:
        """End it from outside; what it holds is the worker's to give back at its next turn."""
        if job.ticket.stage is not Stage.WAITING:
            self._left.append(job)
        self._end(job, how)

    def _end(self, job: Job, how: str) -> None:
        self._scheduler.leave(job.ticket)
        del self._jobs[job.ticket]
        self._meters.requests.labels(how).inc()


def closed() -> ModelError:
    """What is said while the bot stops."""
    return ModelError("the model is being closed", remedy="ask again once the bot has restarted")


def _put(letters: _Mail) -> None:
    for queue, news in letters:
        queue.put_nowait(news)
