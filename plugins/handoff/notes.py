"""What staff know of a talk: what was said, what the answers rested on, and what they noted themselves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot import Message
from bot.store import Audit, Base, Round, Step, Store

SHOWN = 5
"""Rounds of a talk that are shown to who takes it."""
_CUT = 300


class NoteRow(Base):
    """Something that staff noted about a talk; customers never see it."""

    __tablename__ = "handoff_note"
    __table_args__ = (Index("ix_handoff_note_handoff", "handoff"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    handoff: Mapped[int] = mapped_column(BigInteger)
    agent: Mapped[str] = mapped_column(String(256))
    text: Mapped[str] = mapped_column(Text)
    trace: Mapped[str] = mapped_column(String(32), unique=True)
    at: Mapped[float] = mapped_column(Float)


# A command that is handled again after a crash notes nothing twice.
_ADD = insert(NoteRow).on_conflict_do_nothing(index_elements=["trace"])


class Notes:
    """Writes and reads them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, number: int, text: str, message: Message, now: float) -> None:
        """Note something about hand-over `number`. Raises StoreError."""
        agent = f"{message.bot}:{message.user.id}"
        row = {"handoff": number, "agent": agent, "text": text, "trace": message.trace, "at": now}
        await self._store.write(Step(_ADD, [row]), Audit.add(message, "note", str(number)))

    async def of(self, number: int) -> list[str]:
        """Those about a hand-over, oldest first."""
        rows = await self._store.read(
            select(NoteRow.text).where(NoteRow.handoff == number).order_by(NoteRow.id)
        )
        return [row.text for row in rows]

    async def expire(self, before: float) -> None:
        """Remove those from before a unix time."""
        await self._store.execute(delete(NoteRow).where(NoteRow.at < before))


def transcript(rounds: Sequence[Round], sources: str) -> str:
    """The last rounds of a talk with what the bot's answers rested on; sources: the word for it."""
    lines = list[str]()
    for item in rounds[-SHOWN:]:
        lines += [f"❓ {_short(item.question)}", f"🤖 {_short(item.answer)}"]
        told = [*item.sources, *([f"{item.confidence:.0%}"] if item.confidence is not None else [])]
        if told:
            lines.append(f"    {sources}: {', '.join(told)}")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CUT else f"{text[: _CUT - 1]}…"
