"""The engine's threads: askers on event loops, a worker that may be wedged, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic, sleep

import pytest

from model.engine import Engine
from model.scheduler import Limits, Stage
from model.types import ModelError
from tests.model.turns import PATIENCE, ROOMY, Clock, Stub, hear_out, heard, prompt

STUCK_AFTER = 60.0
"""On a clock that stands still, so that only who moves it makes a worker wedged."""


class Wedge:
    """Blocks a runner in one of its operations; `hold` returns when it is in there."""

    def __init__(self, stub: Stub, at: str, clock: Clock) -> None:
        self._clock = clock
        self._at = at
        self._reached = threading.Event()
        self._freed = threading.Event()
        stub.before = self._block

    async def hold(self) -> None:
        """Wait until it is stuck, and then for so long that it counts as wedged."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE)
        self._clock.now += 2 * STUCK_AFTER

    def free(self) -> None:
        self._freed.set()

    def _block(self, what: str, names: list[int]) -> None:
        if what == self._at and not self._reached.is_set():
            self._reached.set()
            assert self._freed.wait(PATIENCE)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog looks five hundred times a second."""
    monkeypatch.setattr("model.engine.LOOK_EVERY", 0.002)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith("model")}


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not reached():  # noqa: ASYNC110 - other threads do it
            await asyncio.sleep(0.001)


async def test_many_askers_hear_their_own_answers() -> None:
    stub = Stub()
    engine = Engine(stub, replace(ROOMY, answering=10, batch=5))
    jobs = [engine.ask(prompt(name, most=name % 7 + 1), user=str(name % 4)) for name in range(40)]
    assert engine.problem == ""
    for name, news in enumerate(await asyncio.gather(*map(hear_out, jobs))):
        assert news == [*range(100 * name + 1, 100 * name + 2 + name % 7), "length"]
    await engine.close()
    assert not stub.held


async def test_what_can_never_fit_is_refused_at_once() -> None:
    engine = Engine(Stub(), Limits(pages=0))
    with pytest.raises(ModelError, match="may fill 1 pages") as refused:
        engine.ask(prompt(1), user="u")
    assert refused.value.remedy
    await engine.close()


# -- a wedged worker ----------------------------------------------------------------------------


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("at", ["decode", "slice", "read", "open"])
async def test_a_wedged_worker_is_replaced(at: str) -> None:
    clock = Clock()
    old, new = Stub(), Stub()
    old.renewed = lambda: new
    wedge = Wedge(old, at, clock)
    engine = Engine(old, replace(ROOMY, answering=2), clock=clock, stuck_after=STUCK_AFTER)
    stuck = [engine.ask(prompt(name), user="u") for name in (1, 2)]
    waits = engine.ask(prompt(3), user="u")
    await wedge.hold()
    for job in stuck:
        *_, error = await hear_out(job)
        assert isinstance(error, ModelError)
        assert "stuck" in error.problem
        assert error.remedy
    assert await hear_out(waits) == [301, 302, 303, "length"]
    assert new.did("open") == [[3]]
    assert engine.meters.registry.get_sample_value("glmbot_model_restarts_total") == 1

    wedge.free()  # what it still gets is nobody's
    await until(lambda: sum(thread.name == "model" for thread in threading.enumerate()) == 1)
    assert [await heard(job) for job in stuck] == [[], []]
    assert await hear_out(engine.ask(prompt(4), user="u")) == [401, 402, 403, "length"]
    assert new.did("open") == [[3], [4]]
    await engine.close()


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("at", ["forget", "decode"])
async def test_a_new_worker_does_not_inherit_how_small_steps_had_become(at: str) -> None:
    """Nor do they get smaller when the old one, no longer stuck, finds no room."""
    clock = Clock()
    old, new = Stub(), Stub()
    old.renewed = lambda: new
    wedge = Wedge(old, at, clock)
    block = old.before

    def full(what: str, names: list[int]) -> None:
        if what == "decode" and len(names) == 8:
            raise MemoryError
        block(what, names)
        if what == "decode":
            raise MemoryError

    old.before = full
    engine = Engine(old, ROOMY, clock=clock, stuck_after=STUCK_AFTER)
    stuck = [engine.ask(prompt(name), user="u") for name in range(8)]
    await wedge.hold()
    await asyncio.gather(*map(hear_out, stuck))
    wedge.free()
    await until(lambda: sum(thread.name == "model" for thread in threading.enumerate()) == 1)
    jobs = [engine.ask(prompt(name, most=50), user="u") for name in range(8)]
    await asyncio.gather(*map(hear_out, jobs))
    assert max(map(len, new.did("decode"))) == 8
    await engine.close()


@pytest.mark.usefixtures("looks_often")
async def test_where_no_new_worker_can_be_made_everybody_is_told() -> None:
    clock = Clock()
    stub = Stub()

    def renew() -> Stub:
        raise MemoryError("no room for another one")

    stub.renewed = renew
    wedge = Wedge(stub, "decode", clock)
    engine = Engine(stub, replace(ROOMY, answering=1), clock=clock, stuck_after=STUCK_AFTER)
    stuck, waits = engine.ask(prompt(1), user="u"), engine.ask(prompt(2), user="u")
    await wedge.hold()
    for job in (stuck, waits):
        [error] = await hear_out(job)
        assert isinstance(error, ModelError)
        assert error.remedy
    with pytest.raises(ModelError, match="no room for another one"):
        engine.ask(prompt(3), user="u")
    assert "no room for another one" in engine.problem
    wedge.free()
    await engine.close()


async def test_where_the_device_is_lost_nobody_is_let_in_any_more() -> None:
    """All would fail alike: whoever watches the bot shall see it, and start it anew."""
    stub = Stub()

    def lost(what: str, names: list[int]) -> None:
        stub.problem = "the card fell off"
        raise RuntimeError("CUDA error: unknown error")

    stub.before = lost
    engine = Engine(stub, replace(ROOMY, answering=1))
    jobs = [engine.ask(prompt(name), user="u") for name in (1, 2)]
    for job in jobs:
        [error] = await hear_out(job)
        assert isinstance(error, ModelError)
    await until(lambda: engine.problem == "the card fell off")
    with pytest.raises(ModelError, match="fell off; restart the bot"):
        engine.ask(prompt(3), user="u")
    await engine.close()


class Watched(Clock):
    """Counts how often the watchdog looks at it."""

    looks = 0

    def __call__(self) -> float:
        self.looks += threading.current_thread().name == "model watchdog"
        return self.now


@pytest.mark.usefixtures("looks_often")
async def test_a_long_turn_of_short_operations_is_not_a_wedged_one() -> None:
    """Nor is a worker that had nothing to do for long."""
    clock = Watched()
    stub = Stub(clock, slice_seconds=STUCK_AFTER / 4, step_seconds=STUCK_AFTER * 0.9)

    def be_looked_at(what: str, names: list[int]) -> None:
        before, end = clock.looks, monotonic() + PATIENCE
        while clock.looks < before + 2 and what != "close":
            assert monotonic() < end
            sleep(0.001)

    stub.before = be_looked_at
    engine = Engine(stub, ROOMY, clock=clock, stuck_after=STUCK_AFTER)
    stub.slices[2] = 30
    jobs = [engine.ask(prompt(1, most=20), user="u"), engine.ask(prompt(2, tokens=300), user="u")]
    for job in jobs:
        assert (await hear_out(job))[-1] == "length"
    clock.now += 10 * STUCK_AFTER
    await asyncio.sleep(0.02)
    assert await hear_out(engine.ask(prompt(9, most=1), user="u")) == [901, "length"]
    assert engine.meters.registry.get_sample_value("glmbot_model_restarts_total") == 0
    await engine.close()


# -- loops and the end --------------------------------------------------------------------------


async def test_a_loop_that_closed_harms_nobody() -> None:
    """Its askers hear nothing any more; what they had is given back once their answers end."""
    stub = Stub()
    engine = Engine(stub, ROOMY)

    async def ask() -> None:
        engine.ask(prompt(1, most=500), user="u")

    await asyncio.to_thread(asyncio.run, ask())
    assert await hear_out(engine.ask(prompt(2, most=1000), user="v")) == [*range(201, 1201), "length"]
    await until(lambda: not stub.held)
    await engine.close()


async def test_askers_on_several_loops() -> None:
    engine = Engine(Stub(), ROOMY)

    async def ask(name: int) -> list[object]:
        return list(await hear_out(engine.ask(prompt(name, most=50), user=str(name))))

    others = (asyncio.to_thread(asyncio.run, ask(name)) for name in (1, 2))
    for name, news in enumerate(await asyncio.gather(ask(0), *others)):
        assert news == [*range(100 * name + 1, 100 * name + 51), "length"]
    await engine.close()


async def test_close_tells_everybody_and_leaves_no_thread() -> None:
    """Who is answered, read or waits; and who comes later."""
    stub = Stub()
    engine = Engine(stub, replace(ROOMY, answering=2))
    stub.slices[2] = 10**9
    answered = engine.ask(prompt(1, most=10**9), user="u")
    await until(lambda: bool(stub.did("decode")))
    read, waits = engine.ask(prompt(2), user="u"), engine.ask(prompt(3), user="u")
    await until(lambda: read.ticket.stage is Stage.READING)
    await engine.close()
    for job in (answered, read, waits):
        *_, error = await hear_out(job)
        assert isinstance(error, ModelError)
        assert "closed" in error.problem
        assert await heard(job) == []
    with pytest.raises(ModelError, match="closed"):
        engine.ask(prompt(4), user="u")
    await engine.close()
