"""Brings the schema up to date: the core's revisions, then each plugin's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bot.errors import StoreError
from bot.store.engine import Store, store_error

HERE = Path(__file__).parent
CORE = "core"
PATIENCE = 5.0


async def upgrade(store: Store, plugins: Mapping[str, Path] | None = None) -> None:
    """Run what is missing under a lock, so that two processes starting together do it once.

    The core and every plugin with tables have a version table and a transaction of their own: a plugin
    that is taken away, or whose revision fails, never strands the others. Raises StoreError.
    """
    for owner, folder in {CORE: HERE / "versions", **(plugins or {})}.items():
        try:
            await _patiently(store, owner, folder)
        except CommandError as error:
            problem = f"the tables of {owner} in {store.place} were made by a newer version"
            raise StoreError(f"{problem}; install that version, or go back to a backup ({error})") from error
        except Exception as error:
            problem = str(error.orig) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
            raise StoreError(f"cannot prepare the tables of {owner} in {store.place}: {problem}") from error


async def _patiently(store: Store, owner: str, folder: Path) -> None:
    """Upgrade, and again while a new database is locked: SQLite does not wait where it turns to WAL."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            async with store.engine.begin() as connection:
                await connection.run_sync(_upgrade, owner, folder)
            return
        except DBAPIError as error:
            if not store_error(error).transient or time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)


def _upgrade(connection: Connection, owner: str, folder: Path) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(owner)
    command.upgrade(config, "heads")


def version_table(owner: str) -> str:
    """The table that holds the revision of the core or of one plugin."""
    return "alembic_version" if owner == CORE else f"alembic_version_{owner.replace('-', '_')}"
