"""The outbox table: every part of every answer until the platform has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import (
    BigInteger,
    Index,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    delete,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Row
from sqlalchemy.orm import Mapped, mapped_column

from bot.reply import Outgoing
from bot.store.base import Base
from bot.store.engine import Step, Store
from bot.store.inbox import OPEN_FOR

PENDING, SENT, FAILED, STREAMING = 0, 1, 2, 3
PAGE = 500


class OutboxRow(Base):
    """One part of an answer; `state` is PENDING, SENT, FAILED or STREAMING."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_open", "id", sqlite_where=text("state = 0"), postgresql_where=text("state = 0")),
        Index("ix_outbox_inbox_id", "inbox_id"),
        Index("ix_outbox_key", "key", unique=True),
        Index("ix_outbox_user", "connector", "user"),
        Index("ix_outbox_created_at", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    inbox_id: Mapped[int | None] = mapped_column(BigInteger)
    part: Mapped[int]
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    chat: Mapped[str] = mapped_column(String(128))
    user: Mapped[str] = mapped_column(String(128))
    key: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[int]
    platform_id: Mapped[str | None] = mapped_column(String(128))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(default=time.time)
    sent_at: Mapped[float | None]


# A handler that runs again after a crash must not repeat what it had said before.
_ADD = insert(OutboxRow).on_conflict_do_nothing(index_elements=["key"]).returning(OutboxRow.id, OutboxRow.key)
_SETTLE = (
    update(OutboxRow)
    .where(OutboxRow.id == bindparam("row"))
    .values(
        state=bindparam("to"),
        platform_id=bindparam("platform"),
        error=bindparam("reason"),
        sent_at=bindparam("at"),
    )
)
_DROP_STREAM = delete(OutboxRow).where(OutboxRow.inbox_id == bindparam("inbox"), OutboxRow.state == STREAMING)
_COLUMNS = (
    OutboxRow.id,
    OutboxRow.inbox_id,
    OutboxRow.part,
    OutboxRow.key,
    OutboxRow.payload,
    OutboxRow.platform_id,
    OutboxRow.created_at,
)


def _outgoing(row: Row[tuple[int, int | None, int, str, str, str | None, float]]) -> Outgoing:
    return Outgoing.from_json(
        row.payload,
        id=row.id,
        inbox_id=row.inbox_id,
        key=row.key,
        part=row.part,
        edits=row.platform_id,
    )


class OutboxTable:
    """Rows of the outbox; sending them is `bot.outbox`'s business."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def add(parts: Sequence[Outgoing], *, state: int = PENDING) -> Step:
        """The step that records parts (in PENDING, or SENT where the client fetches them)."""
        now = time.time()
        rows = [
            {
                "inbox_id": part.inbox_id,
                "part": part.part,
                "connector": part.target.connector,
                "bot": part.target.bot,
                "chat": part.target.chat,
                "user": part.target.user,
                "key": part.key,
                "payload": part.to_json(),
                "state": state,
                "platform_id": part.edits,
                "error": None,
                "created_at": now,
                "sent_at": now if state == SENT else None,
            }
            for part in parts
        ]
        return Step(_ADD, rows)

    @classmethod
    async def adding(cls, parts: Sequence[Outgoing], *, state: int = PENDING) -> Step:
        """`add`, beside the event loop where there are media: they become base64 by the megabyte."""
        if any(part.attachment and part.attachment.data for part in parts):
            return await asyncio.to_thread(cls.add, parts, state=state)
        return cls.add(parts, state=state)

    @staticmethod
    def added(returned: object) -> dict[str, int]:
        """key -> id of the rows that a write of `add` steps inserted."""
        rows = returned.get(_ADD, ()) if isinstance(returned, dict) else ()
        return {row.key: row.id for row in rows}

    @staticmethod
    def drop_stream(inbox_id: int) -> Step:
        """The step that removes the marker row of a streamed answer, its final parts taking over."""
        return Step(_DROP_STREAM, [{"inbox": inbox_id}])

    async def settle(self, row: int, *, platform_id: str | None = None, error: str | None = None) -> None:
        """Mark a part sent, or failed for good where `error` says why."""
        state, at = (SENT, time.time()) if error is None else (FAILED, None)
        values = {"row": row, "to": state, "platform": platform_id, "reason": error, "at": at}
        await self._store.write(Step(_SETTLE, [values]))

    async def stream_started(self, part: Outgoing) -> None:
        """Remember which platform message shows a streamed answer, before it is finished."""
        await self._store.write(self.add([part], state=STREAMING))

    async def stream_of(self, inbox_id: int) -> str | None:
        """The platform message that showed the unfinished answer to a message, if any."""
        rows = await self._store.read(
            select(OutboxRow.platform_id).where(OutboxRow.inbox_id == inbox_id, OutboxRow.state == STREAMING)
        )
        return rows[0].platform_id if rows else None

    async def failed(self, key: str) -> bool:
        """Whether the part of that key failed for good."""
        found = select(OutboxRow.id).where(OutboxRow.key == key, OutboxRow.state == FAILED)
        return bool(await self._store.read(found))

    async def unsent(self) -> AsyncIterator[tuple[Outgoing, float]]:
        """(part, when it was created) of all parts that still have to go out, oldest first."""
        last = 0
        while True:
            rows = await self._store.read(
                select(*_COLUMNS)
                .where(OutboxRow.state == PENDING, OutboxRow.id > last)
                .order_by(OutboxRow.id)
                .limit(PAGE)
            )
            for row in rows:
                yield _outgoing(row), row.created_at
            if not rows:
                return
            last = rows[-1].id

    async def answers_to(self, inbox_id: int) -> list[Outgoing]:
        """The parts that answer a message, in order."""
        rows = await self._store.read(
            select(*_COLUMNS)
            .where(OutboxRow.inbox_id == inbox_id, OutboxRow.state != STREAMING)
            .order_by(OutboxRow.id)
        )
        return [_outgoing(row) for row in rows]

    async def sent(self, connector: str, bot: str, user: str, after: int, limit: int) -> list[Outgoing]:
        """The newest `limit` parts for one user whose id is above `after`, oldest first."""
        rows = await self._store.read(
            select(*_COLUMNS)
            .where(
                OutboxRow.connector == connector,
                OutboxRow.user == user,
                OutboxRow.bot == bot,
                OutboxRow.id > after,
                OutboxRow.state != STREAMING,
            )
            .order_by(OutboxRow.id.desc())
            .limit(limit)
        )
        return [_outgoing(row) for row in reversed(rows)]

    async def expire(self, before: float, limit: int = 2000) -> int:
        """Remove up to `limit` parts made before a unix time; returns their number."""
        settled = and_(OutboxRow.created_at < before, OutboxRow.state.in_((SENT, FAILED)))
        stale = OutboxRow.created_at < before - OPEN_FOR
        old = select(OutboxRow.id).where(or_(settled, stale)).limit(limit)
        return await self._store.execute(delete(OutboxRow).where(OutboxRow.id.in_(old)))
