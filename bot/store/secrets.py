"""Keys the bot makes for itself and keeps, such as the one that signs web visitors' cookies."""

from __future__ import annotations

import secrets

from sqlalchemy import LargeBinary, String, bindparam, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot.store.base import Base
from bot.store.engine import Step, Store

KEY_BYTES = 32


class SecretRow(Base):
    """One key by its purpose."""

    __tablename__ = "secret"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)


_KEEP = insert(SecretRow).on_conflict_do_nothing(index_elements=["name"])
_READ = select(SecretRow.value).where(SecretRow.name == bindparam("wanted"))


async def own_secret(store: Store, name: str) -> bytes:
    """The key for a purpose, made on first use (32 bytes); two processes get the same one."""
    await store.write(Step(_KEEP, [{"name": name, "value": secrets.token_bytes(KEY_BYTES)}]))
    rows = await store.read(_READ, {"wanted": name})
    return bytes(rows[0].value)
