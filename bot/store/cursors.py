"""How far a connector has read what its platform keeps for it."""

from __future__ import annotations

from sqlalchemy import String, Text, bindparam, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.store.base import Base
from bot.store.engine import Step, Store


class CursorRow(Base):
    """One connector's place, in its platform's own words; `name` where it needs more than one."""

    __tablename__ = "cursor"

    connector: Mapped[str] = mapped_column(String(64), primary_key=True)
    bot: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


_INSERT = insert(CursorRow)
_PUT = _INSERT.on_conflict_do_update(
    index_elements=["connector", "bot", "name"], set_={"value": _INSERT.excluded.value}
)
_GET = select(CursorRow.value).where(
    CursorRow.connector == bindparam("of"),
    CursorRow.bot == bindparam("whose"),
    CursorRow.name == bindparam("named"),
)


class Cursors:
    """Keeps a cursor for each connector and bot, and further ones by name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, connector: str, bot: str, name: str = "") -> str | None:
        """The cursor, None before the first one. Raises StoreError."""
        rows = await self._store.read(_GET, {"of": connector, "whose": bot, "named": name})
        return rows[0].value if rows else None

    async def put(self, connector: str, bot: str, value: str, name: str = "") -> None:
        """Move the cursor; to be called once everything before it is committed. Raises StoreError."""
        row = {"connector": connector, "bot": bot, "name": name, "value": value}
        await self._store.write(Step(_PUT, [row]))
