"""One message's way through middlewares and handlers to a committed answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter, time
from typing import Protocol
from uuid import uuid4

import structlog
from structlog.contextvars import bind_contextvars

from bot.answered import Answered
from bot.arrival import MAX_TEXT, Arrival
from bot.compose import compose, target_of, with_sources
from bot.connectors.base import Connector
from bot.desk import Desk
from bot.errors import AskCancelled, AskTimeout, ModelBusy, StoreError
from bot.inject import Call
from bot.live import LiveText, Typing
from bot.loader import Program
from bot.logs import bind_trace
from bot.message import Message
from bot.outbox import numbered
from bot.reply import Answer, Outgoing, Reply, Stream, Target, as_answer
from bot.router import Candidate
from bot.rules import Facts
from bot.session import Session
from bot.store.engine import Step
from bot.store.history import History, trim
from bot.store.inbox import Inbox
from bot.store.outbox import PENDING, SENT, OutboxTable
from bot.store.tally import Tally
from model.types import Turn as Round

log = structlog.get_logger(__name__)


class Lane(Protocol):
    """What a turn tells the lane it runs in."""

    def timed_out(self, turn: Turn, question: int) -> None:
        """Nobody answered this question of the turn."""
        ...

    def answered(self, inbox_id: int, replies: tuple[Outgoing, ...]) -> None:
        """The answer to a message is committed."""
        ...


class Turn:
    """Runs one message; it is the conversation behind the handler's Session.

    A handler that asks back (`Session.ask`) parks its turn: the lane goes on, and hands the user's next
    message over by `resume`.
    """

    def __init__(
        self,
        desk: Desk,
        program: Program,
        connector: Connector,
        arrival: Arrival,
        facts: Facts,
        language: str,
        lane: Lane,
    ) -> None:
        self.desk = desk
        self.message = arrival.message
        self.session = facts.session
        self.plugin = ""
        self._by = ""
        """The kind of the handler at work, or that answered."""
        self._inbox_id = arrival.inbox_id
        self._arrival = arrival
        self._shown = arrival.shown
        self._program = program
        self._connector = connector
        self._facts = facts
        self._language = language
        self._lane = lane
        self._open = True
        self._began = perf_counter()
        self._replies: list[Outgoing] = []
        self._asked: asyncio.Future[tuple[int, Message]] | None = None
        self.question = 0
        self._said = 0
        self._alone = False
        """Whether the answer is committed without what plugins have to note about it."""
        self._deadline: asyncio.Timeout | None = None
        self._typing = Typing(connector, target_of(arrival.message))
        self._waited = 0.0
        self._task: asyncio.Task[None] | None = None
        self._pause: asyncio.Future[None]

    # -- for the lane -----------------------------------------------------------------------

    async def go(self, answer: tuple[int, Message] | AskTimeout | AskCancelled | None = None) -> bool:
        """Run until the message is answered (True) or the handler asks back (False: go on with an answer).

        Cancelling it cancels the handler.
        """
        self._pause = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="turn")
        elif self._asked is not None and not self._asked.done():
            if isinstance(answer, tuple):
                self._asked.set_result(answer)
            elif answer is not None:
                self._asked.set_exception(answer)
        try:
            await self._pause
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._asked is not None:
            return False
        await self._task
        return True

    # -- the way of the message -------------------------------------------------------------

    async def _run(self) -> None:
        """Answer the message; whatever a handler does, the inbox row ends up done."""
        try:
            with bind_trace(self.message.trace):
                await self._finish(self._refuse() if self._arrival.untouched else await self._answer())
        finally:
            if self._task is not None:
                self.desk.current.pop(self._task, None)
            if not self._pause.done():
                self._pause.set_result(None)

    def abandon(self) -> None:
        """End a handler that goes on asking although its question was called off."""
        if self._task is not None:
            self._task.cancel()

    def _refuse(self) -> Reply | None:
        """The answer to a message that is not handled, in place of a handler's."""
        self._by = "refused"
        if self._arrival.silent or self.message.event or not self.message.to_me:
            return None
        wait = max(1, round(self._arrival.wait))
        return Reply(self.text(self._arrival.refusal, seconds=wait, limit=MAX_TEXT))

    async def _answer(self) -> Reply | None:
        """What the handlers say, or one polite line about what went wrong."""
        self._show_typing()
        try:
            async with asyncio.timeout(self.desk.deadline) as self._deadline:
                answer = await self._through_middlewares(self.message)
                return await self._play(answer) if isinstance(answer, Stream) else answer
        except AskTimeout:
            return Reply(self.text("ask_timeout"))
        except AskCancelled as cancelled:
            return Reply(self.text("ask_cancelled_restart")) if cancelled.stopping else None
        except ModelBusy as busy:
            return Reply(self.text("busy", seconds=max(1, round(busy.retry_after))), miss=True)
        except TimeoutError as error:
            if self._deadline is None or not self._deadline.expired():
                return self._failed(error)
            log.error("handler took too long", plugin=self.plugin, deadline=self.desk.deadline)
            return self._failed()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the bot stops; anything else was cancelled inside the handler
            return self._failed(error)
        except (Exception, SystemExit) as error:
            return self._failed(error)
        finally:
            self._typing.stop()

    def _show_typing(self) -> None:
        if self.message.to_me and not self.message.event and not self._connector.capabilities.pull:
            self._typing.start()

    async def _through_middlewares(self, message: Message) -> Reply | Stream | None:
        async def step(index: int, message: Message) -> Answer:
            self.message = message
            if index == len(self._program.middlewares) or message.event:
                return self._refuse() if self._arrival.refusal else await self._ask_handlers()
            plan = self._program.middlewares[index]
            self.plugin, self._by = plan.handler.plugin, plan.handler.kind
            call = Call(
                message,
                self._handle(),
                facts=self._facts,
                next=lambda changed: step(index + 1, changed),
            )
            answer: Answer = await plan.run(call)
            return answer

        return as_answer(await step(0, message))

    async def _ask_handlers(self) -> Reply | Stream | None:
        """The first answer; an event is told to all who listen."""
        first: tuple[Reply | Stream, str] | None = None
        for candidate in self._program.router.route(self.message):
            self.plugin, self._by = candidate.handler.plugin, candidate.handler.kind
            if self._task is not None:
                self.desk.current[self._task] = self.plugin
            refused = self._refused_by(candidate)
            if refused is not None:
                if refused:
                    return Reply(self.text(refused))
                continue
            plan = self._program.plans[candidate.handler]
            call = Call(self.message, self._handle(), candidate.args, candidate.match, facts=self._facts)
            started, self._waited = perf_counter(), 0.0
            result = await plan.run(call)
            took = perf_counter() - started - self._waited
            self.desk.metrics.handler_seconds.labels(self.plugin).observe(took)
            answer = as_answer(result)
            if answer is not None and not self.message.event:
                return answer
            if answer is not None and first is None:
                first = answer, self.plugin
        if first is not None:
            answer, self.plugin = first
            return answer
        self.plugin = self._by = ""
        if self.message.event or not self.message.to_me:
            return None
        if not self.message.text:
            bare_mention = self.message.chat.group and not self.message.segments
            return Reply(self.text("start" if bare_mention else "unsupported"))
        return Reply(self.text("unknown", contact=self.text("contact")), miss=True)

    def _refused_by(self, candidate: Candidate) -> str | None:
        """None to go on, "" to skip the handler, or the catalogue key of what to tell the user."""
        for rule in candidate.handler.rules:
            if not rule(self.message, self._facts):
                tell = rule.denial if candidate.handler.kind == "command" else None
                return tell or ""
        return None

    def _handle(self) -> Session:
        return Session(self.session, self._language, self)

    def _failed(self, error: BaseException | None = None) -> Reply | None:
        if error is not None:
            log.error("handler failed", plugin=self.plugin, exc_info=error)
        self.desk.metrics.handler_errors.labels(self.plugin or "none").inc()
        return Reply(self.text("error"), miss=True) if self.message.to_me and not self.message.event else None

    async def _play(self, stream: Stream) -> Reply | None:
        """Show a streamed answer as it grows; returns it whole, None when it stayed blank."""
        live = LiveText(self._connector, self._target(), stream.markdown, self._shown, self._remember)
        try:
            text = await live.play(stream.chunks, lambda: self._push_deadline(self.desk.deadline))
        finally:
            self._shown = live.shown
        if not text.strip():
            return None
        return stream.finished(text)

    async def _remember(self, shown: str) -> None:
        """Keep the platform's message id before the answer is whole: after a crash that message is edited."""
        marker = Outgoing(self._target(), "", uuid4().hex, inbox_id=self._inbox_id, edits=shown)
        await self.desk.outbox_table.stream_started(marker)

    # -- what a Session can do --------------------------------------------------------------

    async def ask(self, question: str | Reply, timeout: float) -> Message:
        """Commit the question, give the lane back, wait for the next message (see Session.ask)."""
        reply = question if isinstance(question, Reply) else Reply(question)
        self.question += 1
        reply = await self._program.said(reply, Call(self.message, self._handle(), facts=self._facts))
        await self._commit(reply, f"q{self.question}")
        loop, asked_at = asyncio.get_running_loop(), perf_counter()
        self._asked = loop.create_future()
        self._push_deadline(None)
        self._typing.stop()
        timer = loop.call_later(timeout, self._lane.timed_out, self, self.question)
        self._pause.set_result(None)
        try:
            self._inbox_id, self.message = await self._asked
            self._open, self._began, self._said = True, perf_counter(), 0
            bind_contextvars(trace=self.message.trace)
        finally:
            timer.cancel()
            self._asked = None
            self._waited += perf_counter() - asked_at
            self._push_deadline(self.desk.deadline)
        self._show_typing()
        return self.message

    async def say(self, reply: str | Reply) -> None:
        """Send at once; the message stays unanswered until the handler returns."""
        self._said += 1
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        reply = await self._program.said(reply, Call(self.message, self._handle(), facts=self._facts))
        await self._commit(reply, f"s{self._said}", finish=False)

    async def history(self) -> Sequence[Round]:
        """The rounds that fit the prompt's budget."""
        rounds = await self.desk.history.rounds(self.session, self.desk.history_rounds)
        turns = [Round(item.question, item.answer) for item in rounds]
        count = self.desk.model.count_tokens if self.desk.model else len
        return await asyncio.to_thread(trim, turns, self.desk.history_budget, count)

    async def clear(self) -> int:
        """Forget the session's rounds."""
        return await self.desk.history.clear(self.session)

    def text(self, key: str, **fields: object) -> str:
        """A catalogue text in the user's language."""
        return self.desk.catalogue.text(key, self._language, **fields)

    # -- committing -------------------------------------------------------------------------

    async def _finish(self, reply: Reply | None) -> None:
        """Commit the answer; while the database takes no writes the lane waits, and nothing is lost."""
        delay = 1.0
        while True:
            try:
                await self._commit(reply, "f")
                break
            except StoreError as error:
                log.error("cannot commit an answer", problem=error.problem, transient=error.transient)
                if not error.transient and self._alone:
                    await self._commit(self._failed(), "f")
                    break
                if not error.transient:  # what a plugin wants to write may be at fault, not the answer
                    self._alone = True
                    continue
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)
        if reply is not None:
            self.desk.metrics.messages_answered.labels(self.plugin or "none").inc()

    async def _commit(self, reply: Reply | None, key: str, *, finish: bool = True) -> None:
        """One transaction: the round of history, the outbox rows, and the inbox row done.

        `key` is the same whenever this message is handled again: what stands in the outbox is not repeated.
        """
        pull = self._connector.capabilities.pull
        parts = self._parts(reply, f"{self.message.trace}-{key}", finish) if reply else []
        steps: list[Step] = []
        if finish and self._open:
            steps.append(Inbox.done(self._inbox_id))
            if self._arrival.limit:
                chat = f"{self.message.bot}:{self.message.chat.id}"
                steps.append(Tally.add(time(), chat, "moderated", self._arrival.limit))
            if reply and not self.message.event:
                answered = self._answered(reply)
                steps.append(History.add(answered))
                if not self._alone:
                    call = Call(self.message, self._handle(), facts=self._facts, answered=answered)
                    steps += await self._program.noted(call)
            if self._shown is not None:
                steps.append(OutboxTable.drop_stream(self._inbox_id))
        if parts:
            steps.append(await OutboxTable.adding(parts, state=SENT if pull else PENDING))
        if not steps:
            return
        returned = await self.desk.store.write(*steps)
        parts = numbered(parts, OutboxTable.added(returned))
        self._replies += parts
        if finish and self._open:
            self._open = False
            self._shown = None
            waited = perf_counter() - self._began
            self.desk.metrics.answer_seconds.labels(self.message.bot).observe(waited)
            self._lane.answered(self._inbox_id, tuple(self._replies))
            self._replies.clear()
        if pull:
            await self._notify(parts)
        else:
            self.desk.outbox.submit(parts)

    async def _notify(self, parts: Sequence[Outgoing]) -> None:
        """Tell a connector whose clients fetch that there is something to fetch."""
        for part in parts:
            try:
                await self._connector.send(part)
            except Exception:
                log.exception("cannot notify a client", connector=self._connector.kind)

    def _answered(self, reply: Reply) -> Answered:
        return Answered(
            session=self.session,
            message=self.message,
            inbox_id=self._inbox_id,
            question=self._program.kept(self.message.text),
            answer=self._program.kept(reply.text),
            reply=reply,
            plugin=self.plugin,
            by=self._by,
            seconds=perf_counter() - self._began,
            at=time(),
            staff=bool(self._facts.roles),
        )

    def _parts(self, reply: Reply, key: str, finish: bool) -> list[Outgoing]:
        able = self._connector.capabilities
        reply = with_sources(reply, able, self.text)
        parts = compose(reply, able, self._target(), self._inbox_id, key)
        if not finish:
            return [replace(part, final=False) for part in parts]
        if parts and self._shown is not None:
            parts[0] = replace(parts[0], edits=self._shown)
        return parts

    def _target(self) -> Target:
        return target_of(self.message)

    def _push_deadline(self, seconds: float | None) -> None:
        """Start the handler's time anew: it is not counted while a user or a model is the slow one."""
        if self._deadline is not None and not self._deadline.expired():
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)
