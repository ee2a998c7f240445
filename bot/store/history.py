"""History: finished rounds per session, trimmed to a budget of tokens when read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from bot.answered import Answered
from bot.session import SEPARATOR
from bot.store.base import Base
from bot.store.engine import Step, Store
from model.types import Turn


class HistoryRow(Base):
    """One round: a question and the answer the user got."""

    __tablename__ = "history"
    __table_args__ = (
        Index("ix_history_session", "session", "id"),
        Index("ix_history_user", "connector", "user"),
        Index("ix_history_inbox_id", "inbox_id"),
        Index("ix_history_created_at", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    session: Mapped[str] = mapped_column(String(512))
    connector: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column(String(128))
    inbox_id: Mapped[int] = mapped_column(BigInteger)
    plugin: Mapped[str] = mapped_column(String(64))
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    sources: Mapped[str] = mapped_column(Text, default="")
    confidence: Mapped[float | None] = mapped_column(Float)
    vote: Mapped[int | None]
    created_at: Mapped[float] = mapped_column(default=time.time)
    trace: Mapped[str] = mapped_column(String(32), default="")
    model: Mapped[str] = mapped_column(String(128), default="")
    prefix: Mapped[str] = mapped_column(String(64), default="")
    miss: Mapped[bool] = mapped_column(default=False)


_ADD = insert(HistoryRow)
_CHAT_MOVED = (
    update(HistoryRow).where(HistoryRow.session == bindparam("old")).values(session=bindparam("new"))
)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a talk with where its answer came from; `miss`: nobody knew one.

    plugin: who answered, "" where nobody did; trace: that of the message; model, prefix: what wrote it.
    """

    inbox_id: int
    question: str
    answer: str
    sources: tuple[str, ...]
    created_at: float
    vote: int | None = None
    session: str = ""
    plugin: str = ""
    confidence: float | None = None
    trace: str = ""
    model: str = ""
    prefix: str = ""
    miss: bool = False


def trim(rounds: Sequence[Turn], budget: int, count: Callable[[str], int]) -> list[Turn]:
    """The newest whole rounds whose questions and answers fit `budget` tokens; order kept."""
    kept: list[Turn] = []
    left = budget
    for turn in reversed(rounds):
        left -= count(turn.question) + count(turn.answer)
        if left < 0:
            break
        kept.append(turn)
    return kept[::-1]


class History:
    """Reads and writes rounds; a round is written in the transaction that commits its answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def add(answered: Answered) -> Step:
        """The step that records one round."""
        message, reply = answered.message, answered.reply
        row = {
            "session": answered.session,
            "connector": message.connector,
            "user": message.user.id,
            "inbox_id": answered.inbox_id,
            "plugin": answered.plugin,
            "question": answered.question,
            "answer": answered.answer,
            "sources": "\n".join(reply.all_sources),
            "confidence": reply.confidence,
            "vote": None,
            "created_at": answered.at,
            "trace": message.trace,
            "model": reply.model,
            "prefix": reply.prefix,
            "miss": reply.miss,
        }
        return Step(_ADD, [row])

    async def rounds(self, session: str, limit: int) -> list[Round]:
        """The newest rounds of a session, oldest first."""
        newest = select(*_COLUMNS).where(HistoryRow.session == session)
        rows = await self._store.read(newest.order_by(HistoryRow.id.desc()).limit(limit))
        return [_round(row) for row in reversed(rows)]

    async def round(self, connector: str, user: str, inbox_id: int) -> Round | None:
        """A user's round by the message that it answers; None where it is another's, or forgotten."""
        mine = select(*_COLUMNS).where(
            HistoryRow.inbox_id == inbox_id, HistoryRow.connector == connector, HistoryRow.user == user
        )
        rows = await self._store.read(mine)
        return _round(rows[0]) if rows else None

    async def clear(self, session: str) -> int:
        """Forget a session; returns the number of rounds, commands not counted."""
        said = HistoryRow.question
        commands = said.startswith("/") | said.startswith("／")
        await self._store.execute(delete(HistoryRow).where(HistoryRow.session == session, commands))
        return await self._store.execute(delete(HistoryRow).where(HistoryRow.session == session))

    async def vote(self, connector: str, user: str, inbox_id: int, vote: int) -> bool:
        """Record a thumb (1 or -1) on an answer; only the user who got it may. False if there is none."""
        touched = await self._store.execute(
            update(HistoryRow)
            .where(
                HistoryRow.inbox_id == inbox_id,
                HistoryRow.connector == connector,
                HistoryRow.user == user,
            )
            .values(vote=vote)
        )
        return touched > 0

    async def chat_moved(self, connector: str, bot: str, old: str, new: str) -> None:
        """Give the sessions of a renamed chat their new keys."""
        prefix = SEPARATOR.join((connector, bot, old)) + SEPARATOR
        sessions = await self._store.read(
            select(HistoryRow.session)
            .where(HistoryRow.session.startswith(prefix, autoescape=True))
            .distinct()
        )
        target = SEPARATOR.join((connector, bot, new)) + SEPARATOR
        rows = [{"old": row.session, "new": target + row.session.removeprefix(prefix)} for row in sessions]
        if rows:
            await self._store.write(Step(_CHAT_MOVED, rows))

    async def expire(self, before: float, limit: int = 2000) -> int:
        """Remove up to `limit` rounds made before a unix time; returns their number."""
        old = select(HistoryRow.id).where(HistoryRow.created_at < before).limit(limit)
        return await self._store.execute(delete(HistoryRow).where(HistoryRow.id.in_(old)))


_COLUMNS = tuple(getattr(HistoryRow, name) for name in Round.__slots__)


def _round(row: Any) -> Round:
    values = {name: getattr(row, name) for name in Round.__slots__}
    return Round(**{**values, "sources": tuple(row.sources.split("\n")) if row.sources else ()})
