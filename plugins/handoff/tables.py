"""The hand-overs: every one in the database, the open ones in memory too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import BigInteger, Index, Integer, String, Text, bindparam, delete, select, text, update
from sqlalchemy.orm import Mapped, mapped_column

from bot import Memory
from bot.store import Base, Step, Store, Tally

_OPEN = text("closed_at IS NULL")


class HandoffRow(Base):
    """One hand-over, open until `closed_at`; `trace` is the message that asked for it."""

    __tablename__ = "handoff"
    __table_args__ = (
        Index("ix_handoff_open", "session", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_handoff_closed_at", "closed_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
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
    grouped: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str] = mapped_column(String(32), default="asked")
    source: Mapped[str] = mapped_column(String(256), default="")
    agent: Mapped[str] = mapped_column(String(256), default="")
    agent_chat: Mapped[str] = mapped_column(String(256), default="")
    taken_at: Mapped[float | None]
    due_at: Mapped[float | None]
    reminders: Mapped[int] = mapped_column(default=0)
    closed_at: Mapped[float | None]
    closed_by: Mapped[str] = mapped_column(String(256), default="")
    closed_trace: Mapped[str] = mapped_column(String(32), default="")


@dataclass(frozen=True, slots=True)
class Handoff:
    """A talk that people have, one per session at a time.

    `number` is what staff call it; `by_platform`: the platform's own desk has it; `trace`: the message
    that asked for it; `asked_at` and `last_at` (the customer's last message) are unix times; `unsaid` is what
    the customer said that staff are still to be told, up to message `heard`. `reason`: why, as it is counted;
    `source`: what the answer before rested on; `agent` ("bot:user") took it in `agent_chat`, at `taken_at`;
    somebody must by `due_at`, of which staff were reminded `reminders` times.
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
    grouped: bool = False
    reason: str = "asked"
    source: str = ""
    agent: str = ""
    agent_chat: str = ""
    taken_at: float | None = None
    due_at: float | None = None
    reminders: int = 0
    number: int = 0

    @property
    def waits(self) -> bool:
        """Whether nobody has taken it yet."""
        return not self.agent and not self.by_platform

    @property
    def place(self) -> str:
        """Where the customer is, as `Channels` names it."""
        return f"{self.bot}:{self.chat}"


@dataclass(slots=True)
class Held:
    """What is known of the open hand-overs: `open` by session, so that none is looked up.

    By number: `told`, when staff were last told what the customer said; `seen`, when the platform last said
    that people have the talk (unix times). `lock` keeps those who tell staff apart.
    """

    open: dict[str, Handoff] = field(default_factory=dict)
    told: dict[int, float] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: bool = False


_FIELDS = [name for name in Handoff.__slots__ if name != "number"]
_COLUMNS = [getattr(HandoffRow, name) for name in _FIELDS]
_CHANGING = (
    "last_at",
    "by_platform",
    "unsaid",
    "heard",
    "agent",
    "agent_chat",
    "taken_at",
    "due_at",
    "reminders",
)
_TOUCH = (
    update(HandoffRow)
    .where(HandoffRow.id == bindparam("row"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)
_CLOSE = (
    update(HandoffRow)
    .where(HandoffRow.id == bindparam("row"), HandoffRow.closed_at.is_(None))
    .values(closed_at=bindparam("at"), closed_by=bindparam("who"), closed_trace=bindparam("said"))
)


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

    async def load(self) -> None:
        """Bring into memory what an earlier process left open, unless it is there."""
        if self.held.loaded:
            return
        rows = await self._store.read(select(HandoffRow.id, *_COLUMNS).where(HandoffRow.closed_at.is_(None)))
        self.open.update({row.session: _handoff(row) for row in rows})
        self.held.loaded = True

    async def begin(self, wanted: Handoff) -> Handoff:
        """Open a hand-over; the one of that session that is open stays, with the desk that has it now."""
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
                for step in _begun(wanted):
                    await session.execute(step.statement, list(step.rows))
            await session.flush()
        opened = self.open[wanted.session] = _handoff(row)
        return opened

    @property
    def waiting(self) -> list[Handoff]:
        """Those that nobody has taken, oldest first."""
        return sorted((one for one in self.open.values() if one.waits), key=lambda one: one.number)

    def numbered(self, number: int) -> Handoff | None:
        """The open one of that number."""
        return next((one for one in self.open.values() if one.number == number), None)

    def of_agent(self, agent: str, chat: str) -> list[Handoff]:
        """Those that somebody took in a chat."""
        return [one for one in self.open.values() if (one.agent, one.agent_chat) == (agent, chat)]

    async def take(self, handoff: Handoff, agent: str, chat: str, now: float, *steps: Step) -> Handoff:
        """Somebody of the staff has it from now on. Raises StoreError."""
        counted = [] if handoff.taken_at else [_counted(handoff, "taken", "", now)]
        taken = {"agent": agent, "agent_chat": chat, "taken_at": handoff.taken_at or now, "due_at": None}
        return await self.change(handoff, *counted, *steps, **taken)

    async def change(self, handoff: Handoff, *steps: Step, **values: Any) -> Handoff:
        """Note other values of what may change, unless it was closed meanwhile; commit `steps` with it."""
        known = self.current(handoff)
        if known is None:
            return handoff
        changed = self.open[handoff.session] = replace(known, **values)
        row = {f"new_{name}": getattr(changed, name) for name in _CHANGING}
        await self._store.write(Step(_TOUCH, [{"row": handoff.number, **row}]), *steps)
        return changed

    async def close(self, handoff: Handoff, *, by: str, trace: str, now: float) -> None:
        """End a hand-over; `by` is who ended it, `trace` the message that told so."""
        row = {"row": handoff.number, "at": now, "who": by, "said": trace}
        label = by if by in ("customer", "time", "nobody", "platform") else "agent"
        counted = [_counted(handoff, "closed", label, now)] if self.current(handoff) is not None else []
        await self._store.write(Step(_CLOSE, [row]), *counted)
        if self.current(handoff) is not None:
            del self.open[handoff.session]
        for times in (self.held.told, self.held.seen):
            times.pop(handoff.number, None)

    async def was_closed_by(self, number: int, trace: str) -> bool:
        """Whether this very message ended the hand-over: it is handled again after a crash."""
        found = select(HandoffRow.id).where(HandoffRow.id == number, HandoffRow.closed_trace == trace)
        return bool(await self._store.read(found))

    async def forget(self, before: float) -> None:
        """Remove what was closed before a unix time."""
        await self._store.execute(delete(HandoffRow).where(HandoffRow.closed_at < before))


def _handoff(row: Any) -> Handoff:
    return Handoff(**{name: getattr(row, name) for name in _FIELDS}, number=row.id)


def _counted(handoff: Handoff, measure: str, label: str, now: float) -> Step:
    """Counted where the customer is; the seconds since it was asked for are the amount."""
    return Tally.add(now, handoff.place, measure, label, total=now - handoff.asked_at)


def _begun(handoff: Handoff) -> list[Step]:
    at, place = handoff.asked_at, handoff.place
    return [
        Tally.add(at, place, "escalated", handoff.reason),
        Tally.add(at, place, "escalated_source", handoff.source),
    ]
