"""The thread that owns a device: reads prompts in slices, and gives all that answer a token at each step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import structlog

from model.desk import Desk, Job, Turn
from model.meters import Meters
from model.reading import Reading
from model.runner import Answer, Outcome, Runner, is_out_of_memory
from model.types import ModelError

log = structlog.get_logger(__name__)

TOGETHER = 256
"""Tokens of prompts that are read as one, where several have come."""
GROUPS = 2
"""That are at work: the oldest one and, beside it, one that may be shorter."""
BURST = 0.05
"""Seconds of reading between two looks at who has come or gone, while nobody waits for a next token."""
RECOVER_AFTER = 200
"""Steps without running out of memory after which they may be twice as large again."""
_WEIGHT = 0.2
"""Of the newest step in the mean of their times."""
_REPORT = "ask again; if it fails again, restart the bot and report what its log says"
_Key: TypeAlias = tuple[str | None, tuple[int, ...]]


@dataclass(eq=False, slots=True)
class _Group:
    """Prompts that are read together."""

    jobs: list[Job]
    reading: Reading


class Worker:
    """Works from the moment it is made until the desk closes or it is retired."""

    def __init__(self, runner: Runner, desk: Desk, meters: Meters, clock: Callable[[], float]) -> None:
        self.runner = runner
        self.busy_since: float | None = None
        """When the turn or, later in it, the operation began that it is at; None while it waits for work."""
        self._desk = desk
        self._meters = meters
        self._clock = clock
        self._answers: dict[Job, Answer] = {}
        self._unread: set[Job] = set()
        self._line: list[Job] = []
        """Those of them whose prompts nothing was read of."""
        self._groups: list[_Group] = []
        self._same: dict[_Key, list[Job]] = {}
        """By prompts that are being read: those that asked the same and wait for its pages."""
        self._oldest_next = True
        self._step_seconds = BURST
        self._unmeasured = 0.0
        """Seconds of turns in which slices were read, but no prompt came to its end and no step was made."""
        self._most: int | None = None
        self._good_steps = 0
        self._retired = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def retire(self) -> None:
        """Another takes its place: whatever it still gets out of the device is nobody's."""
        self._retired = True

    def join(self, timeout: float) -> None:
        """Wait until its thread has ended."""
        self._thread.join(timeout)

    def _work(self) -> None:
        while (turn := self._desk.next_turn(self._is_retired)) is not None:
            try:
                self._turn(turn)
            except Exception as error:
                self._start_over(error)
            self.busy_since = None
            if not self._retired:
                self._desk.deliver()

    def _is_retired(self) -> bool:
        return self._retired

    def _turn(self, turn: Turn) -> None:
        began = self.busy_since = self._clock()
        for job in turn.left:
            self._close(job)
        for job in turn.admitted:
            self._open(job)
        tokens = self._read()
        if self._retired:
            return
        tokens += self._step(self._desk.batch())
        self._unmeasured += self._clock() - began
        if tokens:
            self._desk.measured(tokens, self._unmeasured)
            self._unmeasured = 0.0

    def _start_over(self, error: Exception) -> None:
        """A turn failed, and nobody knows what it left half done: all that were taken on are given up."""
        self._desk.fail_resident(_told(error), unless=self._is_retired)
        answers = list(self._answers.values())
        for held in (self._answers, self._unread, self._line, self._groups, self._same):
            held.clear()
        self._most = None
        for answer in answers:
            try:
                self.runner.close(answer)
            except Exception:
                log.exception("the pages of an answer could not be given back")
        self._give_up_lost_device()

    def _give_up_lost_device(self) -> None:
        """What fails now would fail for ever: say so, so that whoever watches the bot starts it anew."""
        if not self._retired and not self._desk.problem and (problem := self.runner.problem):
            log.critical("the model answers no more", problem=problem)
            self._desk.close(ModelError(problem, remedy="restart the bot"))

    # -- coming and going -------------------------------------------------------------------

    def _open(self, job: Job) -> None:
        """Take its pages, or wait for those of the same prompt."""
        followers = self._same.get(job.prompt.key)
        if followers is not None:
            followers.append(job)
            return
        try:
            self._answers[job], known = self.runner.open(job.prompt)
        except Exception as error:
            self._fail([job], error)
            return
        if known:
            self._desk.has_read([job])
        else:
            self._same[job.prompt.key] = []
            self._unread.add(job)
            self._line.append(job)

    def _close(self, job: Job) -> None:
        """Give back what it holds; who waited for its prompt reads it alone."""
        answer = self._answers.pop(job, None)
        if answer is None:
            followers = self._same.get(job.prompt.key, [])
            if job in followers:
                followers.remove(job)
            return
        for group in [group for group in self._groups if job in group.jobs]:
            group.reading.drop(answer.cache)
            group.jobs.remove(job)
            if not group.jobs:
                self._groups.remove(group)
        if job in self._line:
            self._line.remove(job)
        self.runner.close(answer)
        if job in self._unread:
            self._unread.remove(job)
            self._begin_anew(job.prompt.key)

    def _begin_anew(self, key: _Key) -> None:
        """Its pages are there now, or never will be: who waited for them takes its own steps."""
        for follower in self._same.pop(key):
            self._open(follower)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        told = _told(error)
        for job in jobs:
            self._desk.fail(job, told)
        self._give_up_lost_device()
        for job in jobs:
            self._close(job)

    # -- prompts ----------------------------------------------------------------------------

    def _read(self) -> int:
        """Slices for a while; tokens of the prompts that were finished."""
        waited_for = len(self._answers) > len(self._unread)
        budget, tokens, began = (self._step_seconds if waited_for else BURST), 0, self._clock()
        for slices in count(1):
            if self._retired:
                break
            if self._line and len(self._groups) < GROUPS:
                self._form_group()
            if not self._groups:
                break
            tokens += self._slice(self._next_group())
            spent = self._clock() - began
            if waited_for:
                spent += spent / (2 * slices)  # to end as near to the budget as whole slices can
            if spent >= budget or (tokens and not waited_for):
                break
        return tokens

    def _form_group(self) -> None:
        tokens = 0
        jobs = list[Job]()
        while self._line and (not jobs or tokens + len(self._line[0].prompt.ids) <= TOGETHER):
            jobs.append(self._line.pop(0))
            tokens += len(jobs[-1].prompt.ids)
        try:
            self._groups.append(_Group(jobs, self.runner.reading([self._answers[job] for job in jobs])))
        except Exception as error:
            self._fail_or_part(jobs, error)

    def _fail_or_part(self, jobs: list[Job], error: Exception) -> None:
        """One of them is at fault, or they are too many: each is tried alone."""
        if len(jobs) == 1:
            self._fail(jobs, error)
            return
        for job in jobs:
            try:
                self._groups.append(_Group([job], self.runner.reading([self._answers[job]])))
            except Exception as own:
                self._fail([job], own)

    def _next_group(self) -> _Group:
        """The oldest and the one with the least to go take turns: neither waits for all of the other."""
        self._oldest_next = not self._oldest_next
        if self._oldest_next:
            return self._groups[0]
        return min(self._groups, key=lambda group: group.reading.left)

    def _slice(self, group: _Group) -> int:
        self.busy_since = self._clock()
        try:
            done = group.reading.step()
        except Exception as error:
            self._groups.remove(group)
            self._fail_or_part(group.jobs, error)
            return 0
        if not done or self._retired:
            return 0
        self._groups.remove(group)
        self._desk.has_read(group.jobs)
        for job in group.jobs:
            self.runner.has_read(self._answers[job])
            self._unread.remove(job)
            self._begin_anew(job.prompt.key)
        tokens = sum(len(job.prompt.ids) for job in group.jobs)
        self._meters.tokens_read.inc(tokens)
        return tokens

    # -- steps ------------------------------------------------------------------------------

    def _step(self, jobs: list[Job]) -> int:
        """A token for each; how many there were."""
        if not jobs:
            return 0
        began = self._clock()
        outcomes = self._decode([self._answers[job] for job in jobs])
        if self._retired:
            return 0
        seconds = self._clock() - began
        self._step_seconds += _WEIGHT * (seconds - self._step_seconds)
        served, tokens = list[Job](), list[int]()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._fail([job], outcome)
            else:
                served.append(job)
                tokens.append(outcome)
        for job in self._desk.served(served, tokens, self.runner.end):
            self._close(job)
        self._meters.stepped(len(served), seconds)
        self._recover()
        return len(served)

    def _decode(self, answers: Sequence[Answer]) -> list[Outcome]:
        """Where the device has no room for all, or one is at fault, in halves."""
        self.busy_since = self._clock()
        try:
            return self.runner.decode(answers)
        except Exception as error:
            if self._retired:
                return [error] * len(answers)
            if is_out_of_memory(error):
                self._shrink(len(answers))
            if len(answers) == 1:
                return [error]
            log.warning("a step failed and is made in halves", answers=len(answers), error=str(error))
        half = len(answers) // 2
        return self._decode(answers[:half]) + self._decode(answers[half:])

    def _shrink(self, answers: int) -> None:
        self.runner.forget()
        if self._retired:
            return
        self._good_steps, self._most = 0, min(self._most or answers, max(1, answers // 2))
        self._desk.limit_batch(self._most)

    def _recover(self) -> None:
        """Steps that found room may be larger again."""
        if self._most is None:
            return
        self._good_steps += 1
        if self._good_steps >= RECOVER_AFTER:
            self._good_steps, self._most = 0, self._desk.limit_batch(2 * self._most)


def _told(error: Exception) -> ModelError:
    """What askers hear of it; what is not meant for them is in the log too."""
    if isinstance(error, ModelError):
        return error
    problem = f"{type(error).__name__}: {error}"
    log.error("the model failed", error=problem, exc_info=error)
    return ModelError(f"the model failed: {problem}", remedy=_REPORT)
