"""Votes with all that is known of the answers they are about."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot import Message
from bot.store import Base, Round, Step, Store, Tally


class FeedbackRow(Base):
    """The latest vote on one answer: 1 or -1."""

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_user", "connector", "user"), Index("ix_feedback_at", "at"))

    inbox_id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    connector: Mapped[str] = mapped_column(String(64))
    bot: Mapped[str] = mapped_column(String(64))
    chat: Mapped[str] = mapped_column(String(128))
    user: Mapped[str] = mapped_column(String(128))
    session: Mapped[str] = mapped_column(String(512))
    trace: Mapped[str] = mapped_column(String(32))
    plugin: Mapped[str] = mapped_column(String(64))
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    sources: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Float)
    model: Mapped[str] = mapped_column(String(128))
    prefix: Mapped[str] = mapped_column(String(64))
    vote: Mapped[int]
    comment: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[float] = mapped_column(Float)


_INSERT = insert(FeedbackRow)
_VOTE = _INSERT.on_conflict_do_update(
    index_elements=["inbox_id"], set_={"vote": _INSERT.excluded.vote, "at": _INSERT.excluded.at}
)
_COMMENT = (
    update(FeedbackRow).where(FeedbackRow.inbox_id == bindparam("row")).values(comment=bindparam("said"))
)
_LABELS = {1: "up", -1: "down"}


@dataclass(frozen=True, slots=True)
class Vote:
    """What a user thought of an answer, and said about it."""

    inbox_id: int
    vote: int
    comment: str
    at: float


class Votes:
    """Writes and reads votes; each counts once, the latest one where a user changes its mind."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def cast(self, message: Message, about: Round, vote: int, now: float) -> bool:
        """Note a vote (1 or -1) and count it; False where it was the same before. Raises StoreError."""
        before = await self._store.read(
            select(FeedbackRow.vote).where(FeedbackRow.inbox_id == about.inbox_id)
        )
        if before and before[0].vote == vote:
            return False
        chat = f"{message.bot}:{message.chat.id}"
        steps = [Tally.add(now, chat, "vote", _LABELS[vote])]
        if before:
            steps.append(Tally.add(now, chat, "vote", _LABELS[before[0].vote], count=-1))
        row = {
            "connector": message.connector,
            "bot": message.bot,
            "chat": message.chat.id,
            "user": message.user.id,
            **{name: getattr(about, name) for name in _OF_ROUND},
            "sources": "\n".join(about.sources),
            "vote": vote,
            "comment": "",
            "at": now,
        }
        await self._store.write(Step(_VOTE, [row]), *steps)
        return True

    async def latest(self, message: Message, since: float) -> Vote | None:
        """The sender's newest vote since a unix time."""
        mine = (
            select(FeedbackRow.inbox_id, FeedbackRow.vote, FeedbackRow.comment, FeedbackRow.at)
            .where(
                FeedbackRow.connector == message.connector,
                FeedbackRow.bot == message.bot,
                FeedbackRow.user == message.user.id,
                FeedbackRow.at >= since,
            )
            .order_by(FeedbackRow.at.desc())
            .limit(1)
        )
        rows = await self._store.read(mine)
        return Vote(**rows[0]._mapping) if rows else None

    async def comment(self, inbox_id: int, text: str) -> None:
        """Note what the user says about an answer it voted on. Raises StoreError."""
        await self._store.write(Step(_COMMENT, [{"row": inbox_id, "said": text}]))

    async def expire(self, before: float) -> None:
        """Remove votes from before a unix time."""
        await self._store.execute(delete(FeedbackRow).where(FeedbackRow.at < before))


_OF_ROUND = ("inbox_id", "session", "trace", "plugin", "question", "answer", "confidence", "model", "prefix")
