"""Blocked users: every one in the database, and in memory too, since each message is looked up."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Index, String, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.store import Base, Step, Store


class BlockRow(Base):
    """A user of a connector (`bot`, of the platform `connector`) who is not listened to."""

    __tablename__ = "moderation_block"
    __table_args__ = (Index("ix_moderation_block_until", "until"),)

    bot: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(String(128), primary_key=True)
    connector: Mapped[str] = mapped_column(String(64))
    until: Mapped[float | None]
    by: Mapped[str] = mapped_column(String(256))
    at: Mapped[float]


@dataclass(frozen=True, slots=True)
class Block:
    """Who is not listened to, until when (unix time; None: until unblocked), by whom and since when."""

    bot: str
    user: str
    connector: str
    until: float | None
    by: str
    at: float

    @property
    def identity(self) -> str:
        """The user as the configuration writes it."""
        return f"{self.bot}:{self.user}"

    def holds(self, now: float) -> bool:
        """Whether it is not over yet."""
        return self.until is None or now < self.until


_INSERT = insert(BlockRow)
_PUT = _INSERT.on_conflict_do_update(
    index_elements=["bot", "user"],
    set_={name: getattr(_INSERT.excluded, name) for name in ("connector", "until", "by", "at")},
)
_END = delete(BlockRow).where(
    BlockRow.bot == bindparam("which_bot"), BlockRow.user == bindparam("which_user")
)
_COLUMNS = [getattr(BlockRow, name) for name in Block.__slots__]


class Blocks:
    """Reads and writes blocks; what else is to be committed with a change is handed in as steps."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], Block] = {}

    async def load(self) -> None:
        """Read all of them. Raises StoreError."""
        rows = await self._store.read(select(*_COLUMNS))
        blocks = [Block(**{name: getattr(row, name) for name in Block.__slots__}) for row in rows]
        self._known = {(block.bot, block.user): block for block in blocks}

    def find(self, bot: str, user: str, now: float) -> Block | None:
        """The block of a user, unless it is over."""
        block = self._known.get((bot, user))
        return block if block is not None and block.holds(now) else None

    def all(self, now: float) -> list[Block]:
        """Those that hold, the newest first."""
        held = [block for block in self._known.values() if block.holds(now)]
        return sorted(held, key=lambda block: block.at, reverse=True)

    async def put(self, block: Block, *with_it: Step) -> None:
        """Block a user, or change for how long. Raises StoreError."""
        row = {name: getattr(block, name) for name in Block.__slots__}
        await self._store.write(Step(_PUT, [row]), *with_it)
        self._known[block.bot, block.user] = block

    async def end(self, bot: str, user: str, *with_it: Step) -> None:
        """Listen to a user again. Raises StoreError."""
        await self._store.write(Step(_END, [{"which_bot": bot, "which_user": user}]), *with_it)
        self._known.pop((bot, user), None)

    async def forget(self, now: float) -> None:
        """Remove what is over. Raises StoreError."""
        await self._store.execute(delete(BlockRow).where(BlockRow.until < now))
        self._known = {key: block for key, block in self._known.items() if block.holds(now)}
