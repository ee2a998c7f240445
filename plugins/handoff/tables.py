"""The hand-overs: every one in the database, the open ones in memory too; what was said in them; streaks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import BigInteger, Index, Integer, String, Text, bindparam, delete, select, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot import Memory, Message
from bot.store import Base, Step, Store
from plugins.handoff.triggers import Streak

_OPEN = text("closed_at IS NULL")
_KEY = BigInteger().with_variant(Integer, "sqlite")
TAKES = 20
"""The latest takings that tell how fast talks are taken."""


class HandoffRow(Base):
    """One hand-over, open until `closed_at`; `trace` is the message that asked for it."""

    __tablename__ = "handoff"
    __table_args__ = (
        Index("ix_handoff_open", "session", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_handoff_closed_at", "closed_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    session: Mapped[str] = mapped_column(String(512))
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    chat: Mapped[str] = mapped_column(String(128))
    user: Mapped[str] = mapped_column(String(128))
    user_name: Mapped[str] = mapped_column(String(256))
    language: Mapped[str] = mapped_column(String(16))
    question: Mapped[str] = mapped_column(Text)
    by_platform: Mapped[bool]
    trace: Mapped[str] = mapped_column(String(32))
    asked_at: Mapped[float]
    last_at: Mapped[float]
    unsaid: Mapped[str] = mapped_column(Text, default="")
    heard: Mapped[str] = mapped_column(String(32), default="")
    closed_at: Mapped[float | None]
    closed_by: Mapped[str] = mapped_column(String(256), default="")
    closed_trace: Mapped[str] = mapped_column(String(32), default="")
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(16))
    grouped: Mapped[bool]
    thread: Mapped[str] = mapped_column(String(128))
    agent: Mapped[str] = mapped_column(String(256))
    agent_name: Mapped[str] = mapped_column(String(256))
    desk: Mapped[str] = mapped_column(String(256))
    taken_at: Mapped[float | None]
    replied_at: Mapped[float | None]
    due_at: Mapped[float | None]
    escalations: Mapped[int]
    told_away: Mapped[bool]


class LineRow(Base):
    """What was said in a hand-over: `kind` is customer, agent or note; `trace` the message that said it."""

    __tablename__ = "handoff_line"
    __table_args__ = (
        Index("ix_handoff_line_handoff", "handoff", "id"),
        Index("ix_handoff_line_trace", "trace", unique=True),
        Index("ix_handoff_line_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    handoff: Mapped[int] = mapped_column(BigInteger)
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    said_by: Mapped[str] = mapped_column(String(256))
    text: Mapped[str] = mapped_column(Text)
    trace: Mapped[str] = mapped_column(String(32))
    at: Mapped[float]


class StreakRow(Base):
    """How the bot did lately in a talk; `offered`: why a person was offered just now."""

    __tablename__ = "handoff_streak"
    __table_args__ = (Index("ix_handoff_streak_at", "at"),)

    session: Mapped[str] = mapped_column(String(512), primary_key=True)
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column(String(128))
    misses: Mapped[int]
    unsure: Mapped[int]
    offered: Mapped[str] = mapped_column(String(16))
    at: Mapped[float]


@dataclass(frozen=True, slots=True)
class Handoff:
    """A talk that people have, one per session at a time.

    `number` is what staff call it; `by_platform`: the platform's own desk has it; `trace`: the message
    that asked for it; `asked_at` and `last_at` (the last message of customer or agent) are unix times;
    `unsaid` is what the customer said that staff are still to be told, up to message `heard`.
    `state` is queued or human; `agent` ("bot:user_id") has it, who works in the chat `desk`; `due_at`: when
    it is time to remind of the first reply, which `escalations` did before.
    """

    session: str
    connector: str
    bot: str
    chat: str
    user: str
    user_name: str
    language: str
    question: str
    by_platform: bool
    trace: str
    asked_at: float
    last_at: float
    unsaid: str = ""
    heard: str = ""
    state: str = "queued"
    reason: str = "asked"
    grouped: bool = False
    thread: str = ""
    agent: str = ""
    agent_name: str = ""
    desk: str = ""
    taken_at: float | None = None
    replied_at: float | None = None
    due_at: float | None = None
    escalations: int = 0
    told_away: bool = False
    number: int = 0

    @property
    def place(self) -> str:
        """Where the customer is, as `Channels` names it."""
        return f"{self.bot}:{self.chat}"


@dataclass(frozen=True, slots=True)
class Line:
    """Something said in a hand-over, by `kind` (customer, agent, note); `said_by` is for staff only."""

    kind: str
    said_by: str
    text: str


@dataclass(slots=True)
class Held:
    """What is known of the open hand-overs: `open` by session, so that none is looked up.

    By number: `told`, when staff were last told what the customer said; `seen`, when the platform last said
    that people have the talk (unix times); `locks` keep those apart who tell staff what one customer says.
    `takes`: when talks were taken lately.
    """

    open: dict[str, Handoff] = field(default_factory=dict)
    told: dict[int, float] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)
    locks: dict[int, asyncio.Lock] = field(default_factory=dict)
    takes: deque[float] = field(default_factory=lambda: deque(maxlen=TAKES))
    loaded: bool = False

    def lock(self, number: int) -> asyncio.Lock:
        """What keeps those apart who tell staff of this hand-over."""
        return self.locks.setdefault(number, asyncio.Lock())


_FIELDS = [name for name in Handoff.__slots__ if name != "number"]
_COLUMNS = [getattr(HandoffRow, name) for name in _FIELDS]
_CHANGING = ("last_at", "by_platform", "unsaid", "heard", "replied_at", "due_at", "escalations", "told_away")
_TOUCH = (
    update(HandoffRow)
    .where(HandoffRow.id == bindparam("row"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)
_SAY = insert(LineRow).on_conflict_do_nothing(index_elements=["trace"])
_STREAK = insert(StreakRow)
_KEEP_STREAK = _STREAK.on_conflict_do_update(
    index_elements=["session"],
    set_={name: getattr(_STREAK.excluded, name) for name in ("misses", "unsure", "offered", "at")},
)
_END_STREAK = delete(StreakRow).where(StreakRow.session == bindparam("which"))


class Handoffs:
    """Reads and writes hand-overs; before and after a reload of the plugin the same ones are open."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self.held = memory.keep("open", Held)

    @property
    def open(self) -> dict[str, Handoff]:
        """The open ones by session."""
        return self.held.open

    def current(self, handoff: Handoff) -> Handoff | None:
        """A hand-over as it is now; None once it was closed."""
        known = self.open.get(handoff.session)
        return known if known is not None and known.number == handoff.number else None

    def numbered(self, number: int) -> Handoff | None:
        """The open hand-over of that number."""
        return next((item for item in self.open.values() if item.number == number), None)

    async def load(self) -> None:
        """Bring into memory what an earlier process left open, unless it is there."""
        if self.held.loaded:
            return
        rows = await self._store.read(select(HandoffRow.id, *_COLUMNS).where(HandoffRow.closed_at.is_(None)))
        self.open.update({row.session: _handoff(row) for row in rows})
        latest = select(HandoffRow.taken_at).where(HandoffRow.taken_at.is_not(None), HandoffRow.agent != "")
        takes = await self._store.read(latest.order_by(HandoffRow.id.desc()).limit(TAKES))
        self.held.takes.extend(sorted(row.taken_at for row in takes))
        self.held.loaded = True

    async def begin(self, wanted: Handoff, *steps: Step) -> Handoff:
        """Open a hand-over, with `steps`; the session's open one stays, with the desk that has it now."""
        known = self.open.get(wanted.session)
        if known is not None:
            return await self.change(known, by_platform=wanted.by_platform)
        values = {name: getattr(wanted, name) for name in _FIELDS}
        still_open = select(HandoffRow).where(
            HandoffRow.session == wanted.session, HandoffRow.closed_at.is_(None)
        )
        async with self._store.session() as session:
            row = await session.scalar(still_open)
            if row is None:
                row = HandoffRow(**values)
                session.add(row)
                await _run(session, steps)
            await session.flush()
        opened = self.open[wanted.session] = _handoff(row)
        return opened

    async def change(self, handoff: Handoff, *steps: Step, **values: Any) -> Handoff:
        """Note other values of what may change and do `steps`, unless it was closed meanwhile."""
        known = self.current(handoff)
        if known is None:
            return handoff
        changed = self.open[handoff.session] = replace(known, **values)
        row = {f"new_{name}": getattr(changed, name) for name in _CHANGING}
        await self._store.write(Step(_TOUCH, [{"row": handoff.number, **row}]), *steps)
        return changed

    async def take(self, handoff: Handoff, *steps: Step, **values: Any) -> Handoff | None:
        """Give a hand-over to somebody, together with `steps`; None where another was faster."""
        as_it_was = [HandoffRow.agent == handoff.agent, HandoffRow.state == handoff.state]
        async with self._store.session() as session:
            if not await _update(session, handoff.number, as_it_was, state="human", **values):
                return None
            await _run(session, steps)
        known = self.current(handoff)
        if known is None:
            return None
        taken = self.open[handoff.session] = replace(known, state="human", **values)
        return taken

    async def close(self, handoff: Handoff, *steps: Step, by: str, trace: str, now: float) -> None:
        """End a hand-over, once, with `steps`; `by`: who ended it, `trace`: the message that told so."""
        ended = {"state": "closed", "closed_at": now, "closed_by": by, "closed_trace": trace, "due_at": None}
        async with self._store.session() as session:
            if await _update(session, handoff.number, (), **ended):
                await _run(session, steps)
        if self.current(handoff) is not None:
            del self.open[handoff.session]
        for kept in (self.held.told, self.held.seen, self.held.locks):
            kept.pop(handoff.number, None)

    async def was_closed_by(self, number: int, trace: str) -> bool:
        """Whether this very message ended the hand-over: it is handled again after a crash."""
        found = select(HandoffRow.id).where(HandoffRow.id == number, HandoffRow.closed_trace == trace)
        return bool(await self._store.read(found))

    # -- what was said --------------------------------------------------------------------------

    def saying(self, handoff: Handoff, line: Line, trace: str, at: float) -> Step:
        """The step that keeps a line, once for a message."""
        about = {name: getattr(handoff, name) for name in ("connector", "bot", "user")}
        said = {name: getattr(line, name) for name in Line.__slots__}
        return Step(_SAY, [{"handoff": handoff.number, **about, **said, "trace": trace, "at": at}])

    async def say(self, handoff: Handoff, line: Line, trace: str, at: float, *steps: Step) -> None:
        """Keep a line of staff and do `steps` with it, once for a message."""
        step = self.saying(handoff, line, trace, at)
        async with self._store.session() as session:
            if await session.scalar(select(LineRow.id).where(LineRow.trace == trace)) is None:
                await _run(session, (step, *steps))

    async def unsay(self, trace: str) -> None:
        """Forget a line that could not be passed on."""
        await self._store.execute(delete(LineRow).where(LineRow.trace == trace))

    async def said(self, trace: str) -> int:
        """The number of the hand-over in which a message was passed on before, 0 if it was not."""
        rows = await self._store.read(select(LineRow.handoff).where(LineRow.trace == trace))
        return int(rows[0].handoff) if rows else 0

    async def lines(self, number: int, limit: int) -> list[Line]:
        """The latest lines of a hand-over, oldest first."""
        rows = await self._store.read(
            select(LineRow.kind, LineRow.said_by, LineRow.text)
            .where(LineRow.handoff == number)
            .order_by(LineRow.id.desc())
            .limit(limit)
        )
        return [Line(row.kind, row.said_by, row.text) for row in reversed(rows)]

    # -- how the bot did ------------------------------------------------------------------------

    async def streak(self, session: str) -> Streak:
        """How the bot did lately in a talk."""
        rows = await self._store.read(
            select(StreakRow.misses, StreakRow.unsure, StreakRow.offered, StreakRow.at).where(
                StreakRow.session == session
            )
        )
        return Streak(*rows[0]) if rows else Streak()

    async def forget(self, before: float) -> None:
        """Remove what was closed or said before a unix time."""
        for rows, at in (
            (HandoffRow, HandoffRow.closed_at),
            (LineRow, LineRow.at),
            (StreakRow, StreakRow.at),
        ):
            await self._store.execute(delete(rows).where(at < before))


def keep_streak(streak: Streak, session: str, message: Message) -> Step:
    """The step that remembers how the bot did for the sender of a message."""
    values = {name: getattr(streak, name) for name in Streak.__slots__}
    if streak == Streak(at=streak.at):
        return Step(_END_STREAK, [{"which": session}])
    whose = {"connector": message.connector, "bot": message.bot, "user": message.user.id}
    return Step(_KEEP_STREAK, [{"session": session, **whose, **values}])


async def _update(session: AsyncSession, number: int, conditions: Sequence[Any], **values: Any) -> bool:
    """Whether an open hand-over was as it must be, and is changed."""
    which = (HandoffRow.id == number, HandoffRow.closed_at.is_(None), *conditions)
    result = await session.execute(update(HandoffRow).where(*which).values(**values))
    return bool(getattr(result, "rowcount", 0))


async def _run(session: AsyncSession, steps: Sequence[Step]) -> None:
    connection = await session.connection()
    for step in steps:
        await connection.execute(step.statement, list(step.rows))


def _handoff(row: Any) -> Handoff:
    return Handoff(**{name: getattr(row, name) for name in _FIELDS}, number=row.id)
