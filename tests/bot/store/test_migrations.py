"""Migrations: the schema they make is the one the code declares; plugins bring their own."""

import asyncio
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from bot.store import Base, Store
from bot.store import inbox as inbox
from bot.store import outbox as outbox
from bot.store import secrets as secrets
from bot.store.migrations import upgrade

REVISION = """
import sqlalchemy as sa
from alembic import op
revision = "shop_0001"
down_revision = None
def upgrade():
    op.create_table("shop_order", sa.Column("id", sa.Integer, primary_key=True))
"""
CORE = ("inbox", "outbox", "history", "secret")


def differences(connection: Connection) -> list[object]:
    def core_only(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        return kind != "table" or name in CORE

    context = MigrationContext.configure(connection, opts={"include_object": core_only})
    found = compare_metadata(context, Base.metadata)
    # SQLite reflects FLOAT for what SQLAlchemy calls Double, and cannot tell a unique constraint's name.
    return [item for item in found if "modify_type" not in str(item) and "constraint" not in str(item)]


async def tables(store: Store) -> set[str]:
    async with store.engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_the_core_schema_is_the_declared_one(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}")
    await upgrade(store)
    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await store.close()


async def test_two_processes_starting_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"
    stores = [Store(url) for _ in range(3)]
    await asyncio.gather(*(upgrade(store) for store in stores))
    assert set(CORE) <= await tables(stores[0])
    for store in stores:
        await store.close()


async def test_a_plugin_brings_its_own_tables_and_may_go_again(tmp_path: Path) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "0001_shop.py").write_text(REVISION)
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}")
    await upgrade(store, {"my-shop": versions})
    assert "shop_order" in await tables(store)
    await upgrade(store)
    assert "shop_order" in await tables(store), "what a plugin stored is kept while it is away"
    await upgrade(store, {"my-shop": versions})
    await store.close()
