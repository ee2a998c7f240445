"""Who among staff did what: every action that needs a role leaves a line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Index, Integer, String, Text, delete, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from bot.message import Message
from bot.store.base import Base
from bot.store.engine import Step, Store


class AuditRow(Base):
    """One action; it names staff, never a customer."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[float]
    actor: Mapped[str] = mapped_column(String(256))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    detail: Mapped[str] = mapped_column(Text)
    trace: Mapped[str] = mapped_column(String(32))


_ADD = insert(AuditRow)
TERMINAL = "terminal"
"""The actor of what was done on the machine itself."""


@dataclass(frozen=True, slots=True)
class Action:
    """A line of the trail: who did what to what, and when (unix time)."""

    at: float
    actor: str
    action: str
    subject: str
    detail: str


class Audit:
    """Writes and reads the trail."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def add(by: Message | str, action: str, subject: str = "", detail: str = "") -> Step:
        """The step that records an action of a message's sender, or of somebody named."""
        row = {
            "at": time.time(),
            "actor": (by if isinstance(by, str) else f"{by.bot}:{by.user.id}")[:256],
            "action": action,
            "subject": subject[:256],
            "detail": detail,
            "trace": "" if isinstance(by, str) else by.trace,
        }
        return Step(_ADD, [row])

    async def note(self, by: Message | str, action: str, subject: str = "", detail: str = "") -> None:
        """Record an action. Raises StoreError."""
        await self._store.write(self.add(by, action, subject, detail))

    async def latest(self, limit: int = 100) -> Sequence[Action]:
        """The newest actions, newest first."""
        rows = await self._store.read(select(*_COLUMNS).order_by(AuditRow.id.desc()).limit(limit))
        return [Action(row.at, row.actor, row.action, row.subject, row.detail) for row in rows]

    async def expire(self, before: float, limit: int = 2000) -> int:
        """Remove up to `limit` actions of before a unix time; returns their number."""
        old = select(AuditRow.id).where(AuditRow.at < before).limit(limit)
        return await self._store.execute(delete(AuditRow).where(AuditRow.id.in_(old)))


_COLUMNS = (AuditRow.at, AuditRow.actor, AuditRow.action, AuditRow.subject, AuditRow.detail)
