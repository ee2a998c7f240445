"""Turns without a device: reservations, lines, shares, by random histories and by simulation."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.scheduler import Limits, Scheduler, Stage, Ticket
from model.types import ModelBusy

ROOMY = Limits(pages=10_000, answering=64, batch=32, waiting=10_000, of_user=1000, wait=1e9)


class Histories(RuleBasedStateMachine):
    """Anything that may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(pages=20, answering=4, batch=3, cheap=2, waiting=6, of_user=3, wait=1e9)
        self.scheduler = Scheduler(self.limits)
        self.here: list[Ticket] = []

    @rule(user=st.sampled_from("abcde"), pages=st.integers(1, 20), prompt=st.integers(1, 50))
    def submit(self, user: str, pages: int, prompt: int) -> None:
        ticket = Ticket(user, pages, prompt, most=10)
        own, waiting = sum(one.user == user for one in self.here), self.scheduler.waiting
        if own < self.limits.of_user and waiting < self.limits.waiting:
            self.scheduler.submit(ticket)
            self.here.append(ticket)
            return
        with pytest.raises(ModelBusy) as refused:
            self.scheduler.submit(ticket)
        assert refused.value.position == waiting + 1
        assert refused.value.retry_after >= 1

    @rule()
    def admit(self) -> None:
        for ticket in self.scheduler.admit():
            assert ticket.stage is Stage.READING

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.here.pop(data.draw(st.integers(0, len(self.here) - 1)))
        self.scheduler.leave(ticket)
        assert ticket not in list(self.scheduler.tickets())
        self.scheduler.leave(ticket)  # twice does no harm

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        reading = [one for one in self.here if one.stage is Stage.READING]
        if reading:
            self.scheduler.has_read(data.draw(st.sampled_from(reading)))

    @rule()
    def step(self) -> None:
        batch = self.scheduler.batch()
        answering = sum(one.stage is Stage.ANSWERING for one in self.here)
        assert min(answering, self.scheduler.limits.batch, 2) <= len(batch) <= self.scheduler.limits.batch
        assert len(set(batch)) == len(batch)
        assert all(one.stage is Stage.ANSWERING for one in batch)
        self.scheduler.served(batch)

    @rule(batch=st.integers(1, 4))
    def limit(self, batch: int) -> None:
        self.scheduler.limits = replace(self.scheduler.limits, batch=batch)

    @invariant()
    def books_are_right(self) -> None:
        scheduler = self.scheduler
        resident = [one for one in self.here if one.stage is not Stage.WAITING]
        assert set(scheduler.tickets()) == set(self.here)
        assert scheduler.reserved == sum(one.pages for one in resident) <= self.limits.pages
        assert scheduler.resident == len(resident) <= self.limits.answering
        assert scheduler.waiting == len(self.here) - len(resident)
        assert scheduler.idle == (not self.here)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Simulation:
    """A device that reads a prompt in one turn and whose every token takes the same time."""

    def __init__(self, limits: Limits) -> None:
        self.scheduler = Scheduler(limits)
        self.answers: dict[Ticket, int] = {}
        self.tokens = 0
        """Served so far, prompts included."""
        self.given = list[tuple[int, str]]()
        """(tokens served before, user) of every token of an answer."""
        self.admitted: dict[Ticket, int] = {}
        self.submitted: dict[Ticket, int] = {}

    def submit(self, user: str, prompt: int = 16, answer: int = 200, pages: int = 1) -> Ticket:
        ticket = Ticket(user, pages, prompt, answer)
        self.scheduler.submit(ticket)
        self.answers[ticket], self.submitted[ticket] = answer, self.tokens
        return ticket

    def turn(self) -> list[Ticket]:
        """Those that ended."""
        for ticket in self.scheduler.admit():
            self.admitted[ticket] = self.tokens
            self.tokens += ticket.prompt
            self.scheduler.has_read(ticket)
        batch = self.scheduler.batch()
        self.scheduler.served(batch)
        self.tokens += len(batch)
        self.given += [(self.tokens, ticket.user) for ticket in batch]
        ended = [ticket for ticket in batch if ticket.answered >= self.answers[ticket]]
        for ticket in ended:
            self.scheduler.answered(ticket.answered)
            self.scheduler.leave(ticket)
        return ended

    def served(self, users: list[str], begin: int, end: int) -> list[int]:
        count = Counter(user for at, user in self.given if begin <= at < end)
        return [count[user] for user in users]


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.parametrize(("answering", "batch"), [(64, 32), (64, 64), (59, 59)])
def test_users_get_equal_shares_of_tokens_however_much_one_asks(answering: int, batch: int) -> None:
    """In every window of thirty tokens a user, after the first."""
    simulation = Simulation(replace(ROOMY, answering=answering, batch=batch))
    users = [f"user {number}" for number in range(50)]
    backlog = [user for user in users for _ in range(10 if user == "user 7" else 1)]
    for user in backlog:
        simulation.submit(user)
    while simulation.tokens < 15_000:
        for ticket in simulation.turn():
            simulation.submit(ticket.user)
    for begin in range(1500, 13_500, 1500):
        assert jain(simulation.served(users, begin, begin + 1500)) >= 0.9


def test_alone_a_user_gets_all_there_is() -> None:
    simulation = Simulation(replace(ROOMY, answering=30, batch=30))
    for _ in range(30):
        simulation.submit("alone")
    simulation.turn()
    assert len(simulation.given) == 30
    simulation.turn()
    assert len(simulation.given) == 60


def test_nobody_waits_longer_than_a_round_and_a_half() -> None:
    """With fewer places than users: a round serves each waiting user once."""
    simulation = Simulation(replace(ROOMY, answering=20))
    users = [f"user {number}" for number in range(50)]
    for user in users:
        for _ in range(10 if user == "user 7" else 3):
            simulation.submit(user, prompt=64, answer=32)
    ended = Counter[str]()
    while min(ended[user] for user in users) < 3:
        ended.update(ticket.user for ticket in simulation.turn())
    round_ = 50 * (64 + 32)
    ends: dict[str, deque[int]] = {user: deque() for user in users}
    for at, user in simulation.given:
        if not ends[user] or at > ends[user][-1]:
            ends[user].append(at)
    for user in users:
        waits = [later - earlier for earlier, later in zip([0, *ends[user]], ends[user], strict=False)]
        assert max(waits) <= 1.5 * round_


def test_a_long_request_is_not_passed_over_for_ever() -> None:
    simulation = Simulation(replace(ROOMY, pages=20))
    for number in range(40):
        simulation.submit(f"small {number}", answer=10)
    long = simulation.submit("long", pages=20, answer=10)
    for turn in range(500):
        simulation.submit(f"late {turn}", answer=10)
        simulation.turn()
        if long in simulation.admitted:
            return
    raise AssertionError("it still waits")


def test_who_comes_back_has_saved_nothing_up() -> None:
    simulation = Simulation(replace(ROOMY, answering=1, batch=1))
    simulation.submit("idle", answer=10)
    simulation.turn()
    for _ in range(50):
        simulation.submit("busy", answer=50)
    while simulation.tokens < 1500:
        simulation.turn()
    for _ in range(50):
        simulation.submit("idle", answer=50)
    begin = simulation.tokens + 100
    while simulation.tokens < begin + 2000:
        simulation.turn()
    busy, idle = simulation.served(["busy", "idle"], begin, begin + 2000)
    assert abs(busy - idle) <= 150


def test_nobody_pays_for_a_time_when_nobody_else_came() -> None:
    simulation = Simulation(replace(ROOMY, answering=1, batch=1))
    for _ in range(20):
        simulation.submit("early", answer=50)
    while not simulation.scheduler.idle:
        simulation.turn()
    begin = simulation.tokens
    for user in ("early", "late"):
        for _ in range(20):
            simulation.submit(user, answer=50)
    while simulation.tokens < begin + 1000:
        simulation.turn()
    early, late = simulation.served(["early", "late"], begin, begin + 1000)
    assert abs(early - late) <= 100


def test_coming_and_going_gains_nothing() -> None:
    """One asks anew each time it was answered, the other keeps a backlog: their shares are the same."""
    simulation = Simulation(replace(ROOMY, answering=1, batch=1))
    for _ in range(100):
        simulation.submit("stays", answer=20)
    simulation.submit("returns", answer=20)
    while simulation.tokens < 3000:
        for ticket in simulation.turn():
            if ticket.user == "returns":
                simulation.submit("returns", answer=20)
    stays, returns = simulation.served(["stays", "returns"], 0, 3000)
    assert returns <= 1.2 * stays


@pytest.mark.parametrize("answering", [64, 20])
def test_who_comes_or_waited_does_not_stop_the_answers_of_others(answering: int) -> None:
    """Neither a user who is new nor one who was in line makes up at once for what others were given."""
    simulation = Simulation(replace(ROOMY, answering=answering, batch=32))
    last = dict[Ticket, int]()
    gaps = list[int]()
    for turn in range(600):
        if turn % 5 == 0:
            simulation.submit(f"user {turn % 300}", answer=150)
        before = {ticket: ticket.answered for ticket in simulation.scheduler.tickets()}
        simulation.turn()
        for ticket, answered in before.items():
            if ticket.answered > answered:
                gaps.append(turn - last.get(ticket, turn))
                last[ticket] = turn
    assert max(gaps) <= 10


def test_idle_users_are_forgotten() -> None:
    simulation = Simulation(ROOMY)
    for number in range(500):
        simulation.submit(f"user {number}", answer=2)
        for _ in range(3):
            simulation.turn()
    assert len(simulation.scheduler._served) < 50


def test_the_overdue_are_those_past_their_deadline() -> None:
    scheduler = Scheduler(replace(ROOMY, answering=1))
    tickets = [Ticket("user", 1, 1, 1, deadline) for deadline in (5.0, None, 3.0, 9.0)]
    for ticket in tickets:
        scheduler.submit(ticket)
    scheduler.admit()
    assert scheduler.overdue(2.9) == []
    assert set(scheduler.overdue(5.0)) == {tickets[0], tickets[2]}


def test_the_wait_is_told_honestly() -> None:
    """At a steady rate, the median of told and true waits is not off by more than a half or double."""
    simulation, rate = Simulation(replace(ROOMY, answering=8, batch=8)), 50.0
    ratios = list[float]()
    told: dict[Ticket, float] = {}
    users = arrivals()
    for _ in range(3000):
        if len(told) < 200 and simulation.scheduler.waiting < 20:
            seconds = simulation.scheduler.estimate(Ticket("new", 1, 16, 60))
            told[simulation.submit(next(users), answer=60)] = seconds
        before = simulation.tokens
        simulation.turn()
        simulation.scheduler.measured(simulation.tokens - before, (simulation.tokens - before) / rate)
    for ticket, seconds in told.items():
        true = (simulation.admitted[ticket] - simulation.submitted[ticket]) / rate
        if seconds == 0:
            assert true <= 2
        elif true > 1:
            ratios.append(seconds / true)
    assert 0.5 <= median(ratios[20:]) <= 2


def arrivals() -> Iterator[str]:
    for number in range(10_000):
        yield f"user {number}"
