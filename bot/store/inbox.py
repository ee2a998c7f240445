"""The inbox: every accepted message, once, until it is answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.message import Message
from bot.store.base import Base
from bot.store.engine import Step, Store

_OPEN = text("done_at IS NULL")
MAX_ATTEMPTS = 5
PAGE = 500
OPEN_FOR = 7 * 86400.0
"""Seconds that an open row outlives the retention: its platform may still be away."""


class InboxRow(Base):
    """One delivery; `done_at` is null until its answer is committed."""

    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("connector", "bot", "delivery"),
        Index("ix_inbox_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_inbox_user", "connector", "user"),
        Index("ix_inbox_received_at", "received_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    delivery: Mapped[str] = mapped_column(String(256))
    user: Mapped[str] = mapped_column(String(128))
    trace: Mapped[str] = mapped_column(String(32))
    payload: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=1)
    received_at: Mapped[float] = mapped_column(default=time.time)
    done_at: Mapped[float | None]


_ACCEPT = (
    insert(InboxRow)
    .on_conflict_do_nothing(index_elements=["connector", "bot", "delivery"])
    .returning(InboxRow.id, InboxRow.trace)
)
_DONE = update(InboxRow).where(InboxRow.id == bindparam("row")).values(done_at=bindparam("at"))
_AGAIN = update(InboxRow).where(InboxRow.id == bindparam("row")).values(attempts=InboxRow.attempts + 1)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A message that was accepted but not answered before the process ended."""

    inbox_id: int
    message: Message
    attempts: int


class Inbox:
    """Accepts deliveries once and remembers which are answered."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def accept(self, messages: Sequence[Message]) -> list[int | None]:
        """Commit new messages in order; an id each, None for one that was accepted before.

        Each message needs a trace of its own: copies of a delivery may share a commit, and the trace
        tells which of them was inserted. Raises StoreError: nothing was recorded then.
        """
        now = time.time()
        rows = [
            {
                "connector": message.connector,
                "bot": message.bot,
                "delivery": message.delivery,
                "user": message.user.id,
                "trace": message.trace,
                "payload": message.to_json(),
                "attempts": 1,
                "received_at": now,
                "done_at": None,
            }
            for message in messages
        ]
        returned = await self._store.write(Step(_ACCEPT, rows))
        # Rows of all who share the commit, so hundreds for each of hundreds: unpacking is what is fast.
        together: Sequence[Any] = returned.get(_ACCEPT, ())
        ids = {trace: row_id for row_id, trace in together}
        return [ids.get(message.trace) for message in messages]

    @staticmethod
    def done(inbox_id: int) -> Step:
        """The step that marks a message answered."""
        return Step(_DONE, [{"row": inbox_id, "at": time.time()}])

    async def find(self, connector: str, bot: str, delivery: str) -> int | None:
        """The id of a delivery, if it was accepted."""
        rows = await self._store.read(
            select(InboxRow.id).where(
                InboxRow.connector == connector, InboxRow.bot == bot, InboxRow.delivery == delivery
            )
        )
        return rows[0].id if rows else None

    async def is_done(self, inbox_id: int) -> bool:
        """Whether a message's answer is committed."""
        rows = await self._store.read(select(InboxRow.done_at).where(InboxRow.id == inbox_id))
        return bool(rows) and rows[0].done_at is not None

    async def unfinished(
        self, begun: Callable[[Message], bool] = lambda message: True
    ) -> AsyncIterator[Unfinished]:
        """What a crash left open, oldest first; one more attempt is counted for those that may have begun."""
        last = 0
        while True:
            rows = await self._store.read(
                select(InboxRow.id, InboxRow.payload, InboxRow.attempts)
                .where(InboxRow.done_at.is_(None), InboxRow.id > last)
                .order_by(InboxRow.id)
                .limit(PAGE)
            )
            if not rows:
                return
            messages = [Message.from_json(row.payload) for row in rows]
            again = [begun(message) for message in messages]
            await self._store.write(
                Step(_AGAIN, [{"row": row.id} for row, counts in zip(rows, again, strict=True) if counts])
            )
            for row, message, counts in zip(rows, messages, again, strict=True):
                yield Unfinished(row.id, message, row.attempts + counts)
            last = rows[-1].id

    async def count_open(self) -> int:
        """How many messages wait for an answer."""
        rows = await self._store.read(
            select(func.count()).select_from(InboxRow).where(InboxRow.done_at.is_(None))
        )
        return int(rows[0][0])

    async def expire(self, before: float, limit: int = 2000) -> int:
        """Remove up to `limit` messages received before a unix time; returns their number."""
        old = (
            select(InboxRow.id)
            .where(
                or_(
                    and_(InboxRow.received_at < before, InboxRow.done_at.is_not(None)),
                    InboxRow.received_at < before - OPEN_FOR,
                )
            )
            .limit(limit)
        )
        return await self._store.execute(delete(InboxRow).where(InboxRow.id.in_(old)))
