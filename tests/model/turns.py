"""A worker that waits to be told to take a turn, a clock that is set, and a runner that follows a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic

from model.desk import Desk, Job, News, Turn
from model.meters import Meters
from model.runner import Outcome, Prompt, Runner
from model.scheduler import Limits, Stage
from model.worker import Worker

ROOMY = Limits(pages=1000, answering=64, batch=64, waiting=1000, of_user=1000, wait=1e9)
PATIENCE = 10.0
"""Seconds until a test that waits for another thread has failed."""


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TurnByTurn(Desk):
    """Gives out a turn when it is told to."""

    def __init__(self, limits: Limits, meters: Meters, clock: Callable[[], float]) -> None:
        super().__init__(limits, meters, clock)
        self.parked = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def next_turn(self, retired: Callable[[], bool]) -> Turn | None:
        self.parked.release()
        self.go.acquire()
        return super().next_turn(retired)


class Turns:
    """A worker at its desk, without an engine around them: between two turns nothing happens."""

    def __init__(self, runner: Runner, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self.meters = Meters()
        self.desk = TurnByTurn(limits, self.meters, clock)
        self._worker = Worker(runner, self.desk, self.meters, clock)
        assert self.desk.parked.acquire(timeout=PATIENCE)

    def ask(self, prompt: Prompt, *, pages: int = 1, user: str = "u", timeout: float | None = None) -> Job:
        return self.desk.ask(prompt, pages, user=user, timeout=timeout)

    def turn(self, turns: int = 1) -> None:
        """There has to be something to do in each of them."""
        for _ in range(turns):
            self.desk.go.release()
            assert self.desk.parked.acquire(timeout=PATIENCE)

    def finish(self, *jobs: Job) -> int:
        """Turns until all have ended; how many it took."""
        for turns in count():
            if all(job.ticket.stage is Stage.GONE for job in jobs):
                return turns
            self.turn()
        raise AssertionError

    def close(self) -> None:
        self.desk.close()
        self.desk.go.release()
        self._worker.join(PATIENCE)


async def heard(job: Job) -> list[News]:
    """All that has come for it."""
    await asyncio.sleep(0)  # what other threads passed to the loop before is done by now
    await asyncio.sleep(0)
    return [job.news.get_nowait() for _ in range(job.news.qsize())]


async def hear_out(job: Job) -> list[News]:
    """All that comes until it has ended."""
    news: list[News] = []
    async with asyncio.timeout(PATIENCE):
        while not news or isinstance(news[-1], int):
            news.append(await job.news.get())
    return news


def prompt(name: int, most: int = 3, tokens: int = 1) -> Prompt:
    """Of so many tokens, the first of them is its name."""
    return Prompt((name, *range(1, tokens)), most)


@dataclass(eq=False)
class Talk:
    """What a `Stub` holds for an answer."""

    name: int
    prompt: Prompt
    tokens: Iterator[Outcome]

    @property
    def cache(self) -> Talk:
        """Readings are told by it which prompt is given up."""
        return self


class Stub:
    """A runner that says the name of the prompt times 100, plus 1, 2, 3 and so on.

    slices: that prompts take, by name, else one. script: what it says else. before: called with what it is
    about to do, and with the names: may raise. log: what it did. held: answers that have their pages.
    """

    end = 0
    problem = ""

    def __init__(
        self, clock: Clock | None = None, *, slice_seconds: float = 0, step_seconds: float = 0
    ) -> None:
        self.slices: dict[int, int] = {}
        self.script: dict[int, list[Outcome]] = {}
        self.before: Callable[[str, list[int]], None] = lambda what, names: None
        self.log: list[tuple[str, list[int]]] = []
        self.held: list[Talk] = []
        self.renewed: Callable[[], Stub] = Stub
        self.clock = clock or Clock()
        self.slice_seconds = slice_seconds
        self.step_seconds = step_seconds
        self._known: set[tuple[str | None, tuple[int, ...]]] = set()

    @property
    def names(self) -> list[int]:
        """Of those that have their pages."""
        return [talk.name for talk in self.held]

    def did(self, what: str) -> list[list[int]]:
        """Whom it did it to, each time."""
        return [names for did, names in self.log if did == what]

    def pages_for(self, prompt: Prompt) -> int:
        return 1

    def open(self, prompt: Prompt) -> tuple[Talk, bool]:
        name = prompt.ids[0]
        self.do("open", [name])
        talk = Talk(name, prompt, iter(self.script.get(name, count(100 * name + 1))))
        self.held.append(talk)
        return talk, prompt.key in self._known

    def reading(self, answers: Sequence[Talk]) -> StubReading:
        self.do("read", [talk.name for talk in answers])
        return StubReading(self, list(answers))

    def has_read(self, answer: Talk) -> None:
        self._known.add(answer.prompt.key)

    def decode(self, answers: Sequence[Talk]) -> list[Outcome]:
        assert set(answers) <= set(self.held)
        self.do("decode", [talk.name for talk in answers])
        self.clock.now += self.step_seconds
        return [next(talk.tokens) for talk in answers]

    def close(self, answer: Talk) -> None:
        self.held.remove(answer)
        self.do("close", [answer.name])

    def forget(self) -> None:
        self._known.clear()
        self.do("forget", [])

    def renew(self) -> Stub:
        return self.renewed()

    def do(self, what: str, names: list[int]) -> None:
        self.before(what, names)
        self.log.append((what, names))


class StubReading:
    """Prompts on their way into a `Stub`."""

    def __init__(self, runner: Stub, talks: list[Talk]) -> None:
        self._runner = runner
        self._talks = talks
        self.left = max(runner.slices.get(talk.name, 1) for talk in talks)

    def step(self) -> bool:
        assert set(self._talks) <= set(self._runner.held)
        self._runner.do("slice", [talk.name for talk in self._talks])
        self._runner.clock.now += self._runner.slice_seconds
        self.left -= 1
        return self.left == 0

    def drop(self, cache: Talk) -> None:
        self._talks.remove(cache)
