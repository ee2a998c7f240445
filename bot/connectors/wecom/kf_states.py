"""Who has an account's conversations: asked after something happened to them, and told to the core."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from bot.connectors.base import Inlet
from bot.connectors.wecom.api import ApiError
from bot.connectors.wecom.kf_desk import PEOPLE, Desk
from bot.connectors.wecom.kf_messages import KIND, StateChange, session
from bot.errors import ConnectorError, Overloaded, StoreError

log = structlog.get_logger(__name__)
AGAIN_AFTER = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds before each next try to learn a state; then it is given up."""
LAST_CALLS = 5.0
_AT_ONCE = 8


@dataclass(slots=True, eq=False)
class _Question:
    change: StateChange
    over: asyncio.Event = field(default_factory=asyncio.Event)


class States:
    """Asks for the states of conversations beside the pull, which waits for none of them.

    There is one question for each customer: what was found out is not told if something newer is known of
    the conversation by then.
    """

    def __init__(self, name: str, desk: Desk) -> None:
        self._name = name
        self._desk = desk
        self._inlet: Inlet | None = None
        self._open: dict[str, _Question] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._few = asyncio.Semaphore(_AT_ONCE)

    def start(self, inlet: Inlet) -> None:
        """Tell this core from now on."""
        self._inlet = inlet

    def stop(self) -> None:
        """Tell nobody any more."""
        self._inlet = None
        for customer in list(self._open):
            self.overtaken(customer)

    async def close(self) -> None:
        """Finish what is being asked."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LAST_CALLS)
        for task in set(self._tasks):
            task.cancel()

    def overtaken(self, customer: str) -> None:
        """Something newer is known of a conversation than the answer to what is being asked."""
        question = self._open.pop(customer, None)
        if question is not None:
            question.over.set()

    def ask(self, change: StateChange) -> None:
        """Find out who has a conversation; the core is told unless it has been told as much already."""
        if self._inlet is None:
            return
        self.overtaken(change.customer)
        question = self._open[change.customer] = _Question(change)
        task = asyncio.create_task(self._settle(question, self._inlet), name=f"{KIND} {self._name} state")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lost(self, customer: str, delivery: str) -> None:
        """The platform says of a conversation that the bot may not write, though it was thought to be its."""
        self.ask(StateChange(customer, delivery, 0.0))

    async def _settle(self, question: _Question, inlet: Inlet) -> None:
        for wait in (*AGAIN_AFTER, None):
            try:
                await self._answer(question, inlet)
            except (ConnectorError, Overloaded, StoreError) as error:
                problem, later = str(error), getattr(error, "retry_after", None) or 0.0
                never = isinstance(error, ApiError) and error.permanent
            else:
                break
            if question.over.is_set():
                return
            if never or wait is None:
                log.warning("who has a conversation is not known", bot=self._name, problem=problem)
                break
            log.info("who has a conversation is asked again", bot=self._name, problem=problem)
            try:
                await asyncio.wait_for(question.over.wait(), max(wait, later))
            except TimeoutError:
                continue
            return
        if not question.over.is_set():
            del self._open[question.change.customer]

    async def _answer(self, question: _Question, inlet: Inlet) -> None:
        change = question.change
        async with self._few:
            if question.over.is_set():
                return
            state = await self._desk.state(change.customer)
        if question.over.is_set():
            return
        if change.state is None:
            await inlet.receive(session(self._name, change.customer, change.delivery, state, change.time))
        elif (state in PEOPLE) != (change.state in PEOPLE):
            delivery = f"state:{change.delivery}"  # the change itself was told under its own
            await inlet.receive(session(self._name, change.customer, delivery, state, change.time))
