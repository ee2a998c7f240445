"""Which digests were sent, which are asked for, and which process sends them."""

from __future__ import annotations

from sqlalchemy import Float, String, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.store import Base, Step, Store

LEASE = 150.0
"""Seconds after which another process takes over."""


class RunRow(Base):
    """A digest that was due, or asked for: done at `done_at`."""

    __tablename__ = "digest_run"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    due_at: Mapped[float] = mapped_column(Float, primary_key=True)
    asked: Mapped[bool]
    done_at: Mapped[float | None] = mapped_column(Float)


class LeaseRow(Base):
    """The process that sends digests, until it is silent for too long."""

    __tablename__ = "digest_lease"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    until: Mapped[float] = mapped_column(Float)


_ADD = insert(RunRow).on_conflict_do_nothing(index_elements=["name", "due_at"])
_DONE = (
    update(RunRow)
    .where(RunRow.name == bindparam("of"), RunRow.due_at == bindparam("due"))
    .values(done_at=bindparam("at"))
)


class Runs:
    """Reads and writes both tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def leads(self, holder: str, now: float) -> bool:
        """Whether this process sends digests now: it did before, or nobody has lately. Raises StoreError."""
        lease = insert(LeaseRow).values(name="digest", holder=holder, until=now + LEASE)
        mine_or_over = (LeaseRow.holder == holder) | (LeaseRow.until < now)
        taken = lease.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": lease.excluded.holder, "until": lease.excluded.until},
            where=mine_or_over,
        )
        return await self._store.execute(taken) > 0

    async def last(self, name: str) -> float | None:
        """When a digest was due last that was sent, or since when it is known. Raises StoreError."""
        rows = await self._store.read(
            select(RunRow.due_at)
            .where(RunRow.name == name, RunRow.asked.is_(False), RunRow.done_at.is_not(None))
            .order_by(RunRow.due_at.desc())
            .limit(1)
        )
        return rows[0].due_at if rows else None

    async def asked(self) -> list[tuple[str, float]]:
        """(name, when) of those that somebody asked for and that were not sent yet. Raises StoreError."""
        wanted = select(RunRow.name, RunRow.due_at).where(RunRow.asked.is_(True), RunRow.done_at.is_(None))
        return [(row.name, row.due_at) for row in await self._store.read(wanted)]

    async def ask(self, name: str, at: float) -> None:
        """Let the running bot send a digest now. Raises StoreError."""
        await self._store.write(Step(_ADD, [{"name": name, "due_at": at, "asked": True, "done_at": None}]))

    async def done(self, name: str, due: float, now: float, *, asked: bool = False) -> None:
        """It was sent. Raises StoreError."""
        row = {"name": name, "due_at": due, "asked": asked, "done_at": None}
        await self._store.write(Step(_ADD, [row]), Step(_DONE, [{"of": name, "due": due, "at": now}]))

    async def expire(self, before: float) -> None:
        """Forget those from before a unix time."""
        await self._store.execute(delete(RunRow).where(RunRow.due_at < before))
