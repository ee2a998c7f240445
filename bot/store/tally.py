"""Counts of what happened, by quarter of an hour: what digests and /metrics tell without reading it all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, Index, Integer, String, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.store.base import Base
from bot.store.engine import Step, Store

QUARTER = 900
"""Seconds of a row: every time zone's days begin and end with one."""
LABEL = 200
"""Characters of a label that are kept."""


class TallyRow(Base):
    """How often something happened in a chat within a quarter of an hour, and the sum of its amounts."""

    __tablename__ = "tally"
    __table_args__ = (Index("ix_tally_measure", "measure", "quarter"),)

    quarter: Mapped[int] = mapped_column(Integer, primary_key=True)
    chat: Mapped[str] = mapped_column(String(256), primary_key=True)
    measure: Mapped[str] = mapped_column(String(32), primary_key=True)
    label: Mapped[str] = mapped_column(String(LABEL), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    total: Mapped[float] = mapped_column(Float)


_INSERT = insert(TallyRow)
_ADD = _INSERT.on_conflict_do_update(
    index_elements=["quarter", "chat", "measure", "label"],
    set_={
        "count": TallyRow.count + _INSERT.excluded.count,
        "total": TallyRow.total + _INSERT.excluded.total,
    },
)


@dataclass(frozen=True, slots=True)
class Count:
    """How often a label was counted, and the sum of its amounts."""

    label: str
    count: int
    total: float


class Tally:
    """Adds to counts and sums them up. A chat is named as `Channels` names it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def add(
        at: float, chat: str, measure: str, label: str = "", *, count: int = 1, total: float = 0.0
    ) -> Step:
        """The step that counts something at a unix time; total: an amount, seconds for instance."""
        row = {
            "quarter": int(at // QUARTER),
            "chat": chat,
            "measure": measure,
            "label": label[:LABEL],
            "count": count,
            "total": total,
        }
        return Step(_ADD, [row])

    async def sums(
        self,
        measure: str,
        since: float,
        until: float,
        *,
        chats: Collection[str] | None = None,
        most: int | None = None,
    ) -> list[Count]:
        """Counts by label from one unix time to another, both whole quarters; the greatest first.

        chats: None is all of them. most: labels at most. Raises StoreError.
        """
        count = func.sum(TallyRow.count)
        rows = await self._store.read(
            select(TallyRow.label, count.label("n"), func.sum(TallyRow.total).label("amount"))
            .where(*_within(measure, since, until, chats))
            .group_by(TallyRow.label)
            .order_by(count.desc(), TallyRow.label)
            .limit(most)
        )
        return [Count(row.label, int(row.n), float(row.amount)) for row in rows]

    async def times(
        self, measure: str, since: float, until: float, *, chats: Collection[str] | None = None
    ) -> list[tuple[float, int]]:
        """(begin of the quarter, count) of a measure, in order; parameters as those of `sums`."""
        rows = await self._store.read(
            select(TallyRow.quarter, func.sum(TallyRow.count).label("n"))
            .where(*_within(measure, since, until, chats))
            .group_by(TallyRow.quarter)
            .order_by(TallyRow.quarter)
        )
        return [(row.quarter * float(QUARTER), int(row.n)) for row in rows]

    async def expire(self, before: float, limit: int = 2000) -> int:
        """Remove up to `limit` counts of before a unix time; returns their number."""
        old = select(TallyRow.quarter).where(TallyRow.quarter < int(before // QUARTER)).limit(limit)
        last = max((row.quarter for row in await self._store.read(old)), default=None)
        if last is None:
            return 0
        return await self._store.execute(delete(TallyRow).where(TallyRow.quarter <= last))


def _within(
    measure: str, since: float, until: float, chats: Collection[str] | None
) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = [
        TallyRow.measure == measure,
        TallyRow.quarter >= int(since // QUARTER),
        TallyRow.quarter < int(until // QUARTER),
    ]
    return wanted if chats is None else [*wanted, TallyRow.chat.in_(chats)]
