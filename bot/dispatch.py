"""Inbox -> one lane per session key -> turns: order within a lane, everything else in parallel, bounded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bot.arrival import MAX_TEXT, Arrival
from bot.catalogue import language_of
from bot.config import Config, GroupSettings
from bot.connectors.base import Connector, Outcome, Receipt
from bot.desk import Desk
from bot.errors import AskCancelled, AskTimeout, Overloaded
from bot.limits import RateLimiter
from bot.loader import Program
from bot.logs import new_trace
from bot.message import Message
from bot.reply import Outgoing
from bot.rules import Cooldowns, Facts, unasked
from bot.session import session_key
from bot.store.history import Round
from bot.store.inbox import MAX_ATTEMPTS
from bot.turn import Turn

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Wake:
    """A waiting question that nobody answered in time or that is called off."""

    turn: Turn
    question: int
    error: AskTimeout | AskCancelled


@dataclass(frozen=True, slots=True)
class Place:
    """A connector and the group rules that hold for it."""

    connector: Connector
    groups: GroupSettings


class Dispatch:
    """The core as connectors see it (`bot.connectors.base.Inlet`)."""

    def __init__(
        self, desk: Desk, program: Program, places: Mapping[tuple[str, str], Place], config: Config
    ) -> None:
        self.program = program
        self._desk = desk
        self._places = places
        self._config = config
        self._lanes: dict[str, deque[Arrival | _Wake]] = {}
        self._waiting: dict[str, Turn] = {}
        self._watchers: dict[int, list[asyncio.Future[Outcome]]] = {}
        self._open: set[int] = set()  # unanswered here: no need to ask the database about them
        self._tasks: set[asyncio.Task[Any]] = set()
        self._workers = asyncio.Semaphore(config.dispatch.workers)
        self._cooldowns = Cooldowns()
        self._per_user = RateLimiter(config.limits.per_user) if config.limits.per_user else None
        self._per_group = RateLimiter(config.limits.per_group) if config.limits.per_group else None
        self._stopping = False
        self._room = asyncio.Event()
        self.pending = 0

    @property
    def lanes(self) -> int:
        """How many sessions have a message at work or waiting."""
        return len(self._lanes)

    # -- for connectors ---------------------------------------------------------------------

    async def receive(self, message: Message) -> Receipt:
        """See `Inlet.receive`."""
        return (await self.receive_many([message]))[0]

    async def receive_many(self, messages: Sequence[Message]) -> list[Receipt]:
        """See `Inlet.receive_many`."""
        if self._stopping or self._is_full(messages):
            raise Overloaded
        # A caller that is cancelled must not keep a committed message from its lane.
        self.pending += len(messages)
        taking = asyncio.create_task(self._take(messages))
        self._tasks.add(taking)
        taking.add_done_callback(self._tasks.discard)
        return await asyncio.shield(taking)

    async def _take(self, messages: Sequence[Message]) -> list[Receipt]:
        try:
            return await self._accept(messages)
        finally:
            self.pending -= len(messages)

    async def _accept(self, messages: Sequence[Message]) -> list[Receipt]:
        began = time.perf_counter()
        prepared = [self._prepare(message) for message in messages]
        wanted = [message for message in prepared if self._concerns_us(message)]
        ids = await self._desk.inbox.accept(wanted) if wanted else []
        self._desk.metrics.ack_seconds.labels(messages[0].bot).observe(time.perf_counter() - began)
        receipts = {id(message): Receipt(0, duplicate=False) for message in prepared}
        for message, inbox_id in zip(wanted, ids, strict=True):
            if inbox_id is not None:
                self._desk.metrics.messages_received.labels(message.bot).inc()
                self._enqueue(self._arrive(inbox_id, message))
                receipts[id(message)] = Receipt(inbox_id, duplicate=False)
        for message, inbox_id in zip(wanted, ids, strict=True):
            if inbox_id is None:
                self._desk.metrics.duplicates.labels(message.bot).inc()
                known = await self.find(message.connector, message.bot, message.delivery)
                receipts[id(message)] = Receipt(known or 0, duplicate=True)
        return [receipts[id(message)] for message in prepared]

    async def outcome(self, inbox_id: int, *, wait: float = 0.0) -> Outcome:
        """See `Inlet.outcome`."""
        watcher: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        watchers = self._watchers.setdefault(inbox_id, [])
        watchers.append(watcher)
        try:
            if inbox_id in self._open or not await self._desk.inbox.is_done(inbox_id):
                if wait <= 0:
                    return Outcome(inbox_id, done=False)
                return await asyncio.wait_for(watcher, wait)
        except TimeoutError:
            return Outcome(inbox_id, done=False)
        finally:
            watchers.remove(watcher)
            if not watchers:
                self._watchers.pop(inbox_id, None)
        replies = await self._desk.outbox_table.answers_to(inbox_id)
        return Outcome(inbox_id, done=True, replies=tuple(replies))

    async def find(self, connector: str, bot: str, delivery: str) -> int | None:
        """See `Inlet.find`."""
        return await self._desk.inbox.find(connector, bot, delivery)

    async def talk(self, message: Message, limit: int) -> list[Round]:
        """See `Inlet.talk`."""
        return await self._desk.history.rounds(self._key(message), limit)

    async def sent(self, connector: str, bot: str, user: str, *, after: int, limit: int) -> list[Outgoing]:
        """See `Inlet.sent`."""
        return await self._desk.outbox_table.sent(connector, bot, user, after, limit)

    async def chat_moved(self, connector: str, bot: str, old: str, new: str) -> None:
        """See `Inlet.chat_moved`."""
        await self._desk.history.chat_moved(connector, bot, old, new)

    # -- life -------------------------------------------------------------------------------

    async def recover(self) -> int:
        """Take up what an earlier process accepted but did not answer; returns the number of messages."""
        count = 0
        lanes: set[str] = set()

        def begun(message: Message) -> bool:
            """Only the first of a lane can have been at work; those behind it brought nothing down."""
            if (message.connector, message.bot) not in self._places:
                return False
            before = len(lanes)
            lanes.add(self._key(message))
            return len(lanes) > before

        async for left in self._desk.inbox.unfinished(begun):
            place = self._places.get((left.message.connector, left.message.bot))
            if place is None:
                continue
            while self.pending >= self._config.dispatch.queue:
                self._room.clear()
                await self._room.wait()
            shown = None
            if place.connector.capabilities.streaming:
                shown = await self._desk.outbox_table.stream_of(left.inbox_id)
            refusal = "too_long" if len(left.message.text) > MAX_TEXT else ""
            if left.attempts > MAX_ATTEMPTS:
                refusal = "error"
                log.error("a message brought the bot down before; not tried again", trace=left.message.trace)
            self._enqueue(Arrival(left.inbox_id, left.message, refusal, shown=shown))
            count += 1
        return count

    async def drain(self, timeout: float) -> bool:
        """Take nothing new, end waiting questions politely, finish the rest. True if all was finished."""
        self._stopping = True
        for turn in list(self._waiting.values()):
            self._push(turn.session, _Wake(turn, turn.question, AskCancelled(stopping=True)))
        deadline = time.monotonic() + timeout
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(set(self._tasks), timeout=deadline - time.monotonic())
        left = set(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return not left

    # -- lanes ------------------------------------------------------------------------------

    def _prepare(self, message: Message) -> Message:
        """A storable message that knows whether it is for the bot, with a trace of its own."""
        message = message.cleaned()
        groups = self._places[message.connector, message.bot].groups
        text, to_me = message.text.strip(), message.mentioned or not message.chat.group
        for word in () if to_me else groups.wake_words:
            if text.casefold().startswith(word.casefold()):
                text, to_me = text[len(word) :].lstrip(" ,，:：、"), True
                break
        to_me = to_me or groups.respond == "all" or self.program.router.knows_command(text)
        to_me = to_me or self._key(message) in self._waiting  # what the bot asked is answered to the bot
        return replace(
            message,
            text=text,
            to_me=to_me,
            trace=message.trace or new_trace(),
            time=message.time or time.time(),
        )

    def _concerns_us(self, message: Message) -> bool:
        """Whether anybody would look at a message: what a group says among itself is not recorded."""
        if message.to_me or message.event:
            return True
        if len(message.text) > MAX_TEXT:
            return False
        respond = self._places[message.connector, message.bot].groups.respond
        return any(
            respond == "faq" or unasked not in listener.rules for listener in self.program.router.listeners
        )

    def _arrive(self, inbox_id: int, message: Message) -> Arrival:
        """The message as its lane gets it: refused when it is too long or one too many."""
        if len(message.text) > MAX_TEXT:
            return Arrival(inbox_id, message, refusal="too_long")
        if not message.to_me or message.event or self._roles(message):
            return Arrival(inbox_id, message)
        user, chat = f"{message.bot}:{message.user.id}", f"{message.bot}:{message.chat.id}"
        limit, key = "rate_limited", f"{chat}:{message.user.id}"
        wait = self._per_user.take(user) if self._per_user else 0.0
        if not wait and self._per_group and message.chat.group:
            limit, key = "group_limited", chat
            wait = self._per_group.take(chat)
        if not wait:
            return Arrival(inbox_id, message)
        told = not self._cooldowns.take(id(self), f"{limit}:{key}", wait)
        return Arrival(inbox_id, message, refusal=limit, wait=wait, silent=told)

    def _key(self, message: Message) -> str:
        place = self._places[message.connector, message.bot]
        return session_key(message, place.groups.session)

    def _is_full(self, messages: Sequence[Message]) -> bool:
        """Whether too many messages wait for an answer, or too many answers of this bot to be sent."""
        unsent = max((self._desk.outbox.pending_of(m.connector, m.bot) for m in messages), default=0)
        return max(self.pending, unsent) >= self._config.dispatch.queue

    def _enqueue(self, arrival: Arrival) -> None:
        self._open.add(arrival.inbox_id)
        self._push(self._key(arrival.message), arrival)

    def _push(self, key: str, item: Arrival | _Wake) -> None:
        self.pending += 1
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(item)
            return
        self._lanes[key] = deque([item])
        task = asyncio.create_task(self._run_lane(key), name="lane")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_lane(self, key: str) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                async with self._workers:
                    try:
                        await self._step(key, lane[0])
                    except Exception:
                        log.exception("a lane failed", key=key)
                        if isinstance(lane[0], Arrival):
                            self._open.discard(lane[0].inbox_id)
                lane.popleft()
                self.pending -= 1
                self._room.set()
        finally:
            self.pending -= len(lane)
            del self._lanes[key]

    async def _step(self, key: str, item: Arrival | _Wake) -> None:
        """Run one message until it is answered or its handler waits for the user's next one."""
        waiting = self._waiting.get(key)
        if isinstance(item, _Wake):
            if waiting is item.turn and waiting.question == item.question:
                await self._go(key, waiting, item.error)
            return
        message = item.message
        place = self._places[message.connector, message.bot]
        facts = Facts(key, self._roles(message), place.groups.respond, self._cooldowns)
        if waiting is not None and message.to_me and not item.refusal and not message.event:
            if self.program.router.knows_command(message.text):
                await self._call_off(key, waiting)
            elif (heard := self.program.heard(message, facts)) is not None:
                await self._go(key, waiting, (item.inbox_id, heard))
                return
        language = self._language(message)
        await self._go(key, Turn(self._desk, self.program, place.connector, item, facts, language, self))

    async def _go(
        self, key: str, turn: Turn, answer: tuple[int, Message] | AskTimeout | AskCancelled | None = None
    ) -> None:
        if self._waiting.get(key) is turn:
            del self._waiting[key]
        if await turn.go(answer):
            return
        older = self._waiting.get(key)
        if older is not None:  # two cannot wait for one answer
            await self._call_off(key, older)
        self._waiting[key] = turn
        if self._stopping:
            self._push(key, _Wake(turn, turn.question, AskCancelled(stopping=True)))

    async def _call_off(self, key: str, turn: Turn) -> None:
        """End a waiting question; a handler that asks again all the same is ended for good."""
        del self._waiting[key]
        if not await turn.go(AskCancelled(stopping=False)):
            turn.abandon()

    def timed_out(self, turn: Turn, question: int) -> None:
        """See `bot.turn.Lane`."""
        if self._waiting.get(turn.session) is turn:
            error = AskTimeout("nobody answered in time")
            self._push(turn.session, _Wake(turn, question, error))

    def answered(self, inbox_id: int, replies: tuple[Outgoing, ...]) -> None:
        """See `bot.turn.Lane`."""
        self._open.discard(inbox_id)
        for watcher in self._watchers.get(inbox_id, ()):
            if not watcher.done():
                watcher.set_result(Outcome(inbox_id, done=True, replies=replies))

    def _roles(self, message: Message) -> frozenset[str]:
        names = {f"{message.bot}:{message.user.id}", f"{message.connector}:{message.user.id}"}
        roles = self._config.roles
        return frozenset(
            role
            for role, members in (("admins", roles.admins), ("agents", roles.agents))
            if not names.isdisjoint(members)
        )

    def _language(self, message: Message) -> str:
        if self._config.language != "auto":
            return self._config.language
        hint = message.user.language or "zh"
        return language_of(message.text, "zh" if hint.lower().startswith("zh") else "en")
