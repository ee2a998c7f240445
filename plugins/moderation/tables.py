"""Who is blocked, until when and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time

from sqlalchemy import Float, String, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot import Memory
from bot.store import Base, Step, Store


class BlockRow(Base):
    """One blocked user of a connector."""

    __tablename__ = "moderation_block"

    connector: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(String(128), primary_key=True)
    until: Mapped[float | None] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(256))
    at: Mapped[float] = mapped_column(Float)


_INSERT = insert(BlockRow)
_BLOCK = _INSERT.on_conflict_do_update(
    index_elements=["connector", "user"],
    set_={name: _INSERT.excluded[name] for name in ("until", "by", "at")},
)
_UNBLOCK = delete(BlockRow).where(BlockRow.connector == bindparam("place"), BlockRow.user == bindparam("who"))


@dataclass(slots=True)
class _Known:
    """`until` by "connector:user" (None: for good), read once."""

    until: dict[str, float | None] = field(default_factory=dict)
    loaded: bool = False


class Blocks:
    """Blocked users, in memory and in the database. A user is named "connector:id"."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._known = memory.keep("blocks", _Known)

    async def load(self) -> None:
        """Read them, unless they were read."""
        if not self._known.loaded:
            for row in await self._store.read(select(BlockRow.connector, BlockRow.user, BlockRow.until)):
                self._known.until[f"{row.connector}:{row.user}"] = row.until
            self._known.loaded = True

    def until(self, name: str) -> float | None:
        """The unix time until which a user is blocked, infinity for good; None for who is not."""
        if name not in self._known.until:
            return None
        until = self._known.until[name]
        if until is not None and until <= time():
            return None
        return float("inf") if until is None else until

    def all(self) -> dict[str, float]:
        """Everybody who is blocked, and until when."""
        found = {name: self.until(name) for name in self._known.until}
        return {name: until for name, until in sorted(found.items()) if until is not None}

    async def block(self, name: str, until: float | None, by: str, *steps: Step) -> None:
        """Keep a user out until a unix time, or for good; `steps` are committed, too. Raises StoreError."""
        place, _, who = name.partition(":")
        row = {"connector": place, "user": who, "until": until, "by": by[:256], "at": time()}
        await self._store.write(Step(_BLOCK, [row]), *steps)
        self._known.until[name] = until

    async def unblock(self, name: str, *steps: Step) -> bool:
        """Let a user in again; False for one who was not blocked. Raises StoreError."""
        if self.until(name) is None:
            return False
        place, _, who = name.partition(":")
        await self._store.write(Step(_UNBLOCK, [{"place": place, "who": who}]), *steps)
        del self._known.until[name]
        return True

    async def tidy(self) -> None:
        """Forget blocks that are over."""
        for name, until in list(self._known.until.items()):
            if until is not None and until <= time():
                del self._known.until[name]
        await self._store.execute(delete(BlockRow).where(BlockRow.until <= time()))
