"""Whose turn it is: users' lines, reserved pages, an even share of tokens. It has no clock and no tensors.

A user's counter tells the tokens served to it, prompts included; who has the least goes first (Sheng et al.
2024, "Fairness in Serving Large Language Models"). Who comes back from being idle starts no lower than those
who stayed, so nobody saves up turns; nor does anybody pay for a time when nobody else wanted the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain

from model.types import ModelBusy

FIRST_RATE = 20.0
"""Tokens a second, as long as none were served."""
FIRST_ANSWER = 100.0
"""Tokens of an answer, as long as none was given."""
AHEAD = 8.0
"""Tokens that a user's answers may be ahead of the least served one's, where a step is dear."""
_WEIGHT = 0.1
"""Of the newest number in a running mean."""


class Stage(Enum):
    """Where a ticket stands."""

    WAITING = "waiting"
    READING = "reading"
    ANSWERING = "answering"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Ticket:
    """A request, as far as turns go.

    pages: what it may come to own; they are reserved from admission until it leaves. prompt: tokens to be
    read; most: tokens of the answer at most. deadline: on the caller's clock.
    """

    user: str
    pages: int
    prompt: int
    most: int
    deadline: float | None = None
    stage: Stage = field(default=Stage.WAITING, init=False)
    answered: int = field(default=0, init=False)
    number: int = field(default=0, init=False)
    """In the order of arrival."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there is for all, and for one.

    pages: of the pool, those of prefixes not counted. answering: sequences that may be resident, those being
    read included. batch: those that a step decodes at most; cheap: so many take hardly longer than one.
    waiting: length of all lines together. of_user: what a user may have waiting and resident. wait: seconds,
    beyond which a request is refused at once.
    """

    pages: int
    answering: int = 64
    batch: int = 64
    cheap: int = 8
    waiting: int = 128
    of_user: int = 2
    wait: float = 120.0


class Scheduler:
    """Not for two threads at once."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.reserved = 0
        """Pages."""
        self._lines: dict[str, deque[Ticket]] = {}
        self._resident: dict[Ticket, None] = {}
        self._residents: dict[str, int] = {}
        self._answering: dict[Ticket, None] = {}
        self._served = Shares()
        """Tokens, prompts included: whose turn it is to be admitted."""
        self._answers = Shares()
        """Tokens of answers: who takes part in a step. Time spent in line or with a prompt counts for nothing
        here: who made it up in one go would stop the answers of all others."""
        self._arrivals = 0
        self._rate = FIRST_RATE
        self._answer = FIRST_ANSWER

    @property
    def waiting(self) -> int:
        """Tickets in all lines."""
        return sum(map(len, self._lines.values()))

    @property
    def resident(self) -> int:
        """Tickets that hold pages."""
        return len(self._resident)

    @property
    def idle(self) -> bool:
        """That nobody wants anything."""
        return not self._lines and not self._resident

    def tickets(self) -> Iterator[Ticket]:
        """All that wait or are resident."""
        return chain(chain.from_iterable(self._lines.values()), self._resident)

    # -- coming and going -------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Join the user's line. Raises ModelBusy, with its place in the line and an estimate of the wait.

        A ticket that wants more pages than there are is the caller's to refuse.
        """
        assert ticket.pages <= self.limits.pages
        limits, position, seconds = self.limits, self.waiting + 1, self.estimate(ticket)
        own = len(self._lines.get(ticket.user, ())) + self._residents.get(ticket.user, 0)
        if own >= limits.of_user or position > limits.waiting or seconds > limits.wait:
            raise ModelBusy(round(max(seconds, 1.0), 1), position=position)
        self._arrivals += 1
        ticket.number = self._arrivals
        if ticket.user not in self._lines and not self._residents.get(ticket.user):
            self._served.join(ticket.user, self._here())
        self._lines.setdefault(ticket.user, deque()).append(ticket)

    def admit(self) -> list[Ticket]:
        """Those whose turn it is, now being read: their pages are reserved.

        The first in turn is not passed over where it does not fit yet: a long request would wait forever.
        """
        admitted = []
        while self._lines and self.resident < self.limits.answering:
            ticket = min((line[0] for line in self._lines.values()), key=self._turn)
            if self.reserved + ticket.pages > self.limits.pages:
                break
            self._leave_line(ticket)
            self._resident[ticket] = None
            self._residents[ticket.user] = self._residents.get(ticket.user, 0) + 1
            self.reserved += ticket.pages
            self._served.add(ticket.user, ticket.prompt)
            ticket.stage = Stage.READING
            admitted.append(ticket)
        return admitted

    def has_read(self, ticket: Ticket) -> None:
        """Its prompt is in: it takes part in steps from now on."""
        assert ticket.stage is Stage.READING
        answering = {one.user for one in self._answering}
        if ticket.user not in answering:
            self._answers.join(ticket.user, answering)
        self._answering[ticket] = None
        ticket.stage = Stage.ANSWERING

    def leave(self, ticket: Ticket) -> None:
        """It ended, well or not, or was given up: what it held is free."""
        if ticket.stage is Stage.WAITING:
            self._leave_line(ticket)
        elif ticket.stage is not Stage.GONE:
            del self._resident[ticket]
            self._answering.pop(ticket, None)
            self.reserved -= ticket.pages
            self._residents[ticket.user] -= 1
            if not self._residents[ticket.user]:
                del self._residents[ticket.user]
        ticket.stage = Stage.GONE
        self._served.settle(self._here())
        self._answers.settle({one.user for one in self._answering})

    def overdue(self, now: float) -> list[Ticket]:
        """Those whose deadline has passed; they are still there."""
        return [one for one in self.tickets() if one.deadline is not None and one.deadline <= now]

    # -- steps ------------------------------------------------------------------------------

    def batch(self) -> list[Ticket]:
        """Those that the next step gives a token: of too many, those whose users were given least.

        A user's second sequence counts as given one more, so that all users' first ones go before. Up to
        `cheap`, one more in a step costs the others little; beyond, nobody gets further ahead by having more.
        """
        limits = self.limits
        if len(self._answering) <= min(limits.cheap, limits.batch):
            return list(self._answering)
        before: dict[str, int] = {}
        turns = []
        for ticket in self._answering:
            more = before[ticket.user] = before.get(ticket.user, -1) + 1
            turns.append((self._answers.of(ticket.user) + more, more, ticket.number, ticket))
        turns.sort()
        least = turns[0][0]
        return [
            ticket
            for number, (given, more, _, ticket) in enumerate(turns[: limits.batch])
            if number < limits.cheap or given - more <= least + AHEAD
        ]

    def served(self, tickets: Iterable[Ticket]) -> None:
        """A step gave each of them a token."""
        users = []
        for ticket in tickets:
            ticket.answered += 1
            users.append(ticket.user)
        self._served.add_one(users)
        self._answers.add_one(users)

    def measured(self, tokens: int, seconds: float) -> None:
        """A step served so many tokens, prompts included, in that time."""
        if tokens and seconds > 0:
            self._rate += _WEIGHT * (tokens / seconds - self._rate)

    def answered(self, tokens: int) -> None:
        """An answer came to its end after so many tokens."""
        self._answer += _WEIGHT * (tokens - self._answer)

    def estimate(self, ticket: Ticket) -> float:
        """Seconds until a ticket that comes now is admitted, by the tokens to be served before it."""
        free = self.limits.answering - self.resident
        fits = self.reserved + ticket.pages + sum(one.pages for line in self._lines.values() for one in line)
        if self.waiting < free and fits <= self.limits.pages:
            return 0.0
        before = sum(
            one.prompt + min(one.most, self._answer) for line in self._lines.values() for one in line
        )
        left = [max(min(one.most, self._answer) - one.answered, 1.0) for one in self._resident]
        return (before + sum(left) / max(len(left), 1) * max(len(left) / 2, 1)) / self._rate

    def _turn(self, ticket: Ticket) -> tuple[int, float, int]:
        """Who has nothing running goes first: what a running answer will still cost is not counted yet."""
        return self._residents.get(ticket.user, 0), self._served.of(ticket.user), ticket.number

    def _here(self) -> Set[str]:
        return self._lines.keys() | self._residents.keys()

    def _leave_line(self, ticket: Ticket) -> None:
        line = self._lines[ticket.user]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.user]


class Shares:
    """What users were given, while they are here and as long after as it matters."""

    def __init__(self) -> None:
        self._given: dict[str, float] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._given)

    def of(self, user: str) -> float:
        """So much."""
        return self._given[user]

    def join(self, user: str, others: Set[str]) -> None:
        """A user comes, or comes back: no less was given to it than to the least served of the others."""
        if others:
            self._raise_floor(others)
        self._given[user] = max(self._given.get(user, 0.0), self._floor)

    def add(self, user: str, amount: float) -> None:
        """It was given more."""
        self._given[user] += amount

    def add_one(self, users: Iterable[str]) -> None:
        """They were given one more, each as often as it is named."""
        given = self._given
        for user in users:
            given[user] += 1.0

    def settle(self, here: Set[str]) -> None:
        """Raise the floor to the least served of who is here; idle users not above it are as new ones."""
        if here:
            self._raise_floor(here)
        else:
            self._floor = max(self._given.values(), default=self._floor)
        for user in self._given.keys() - here:
            if self._given[user] <= self._floor:
                del self._given[user]

    def _raise_floor(self, here: Set[str]) -> None:
        self._floor = max(self._floor, min(self._given[user] for user in here))
