"""Brings the schema up to date: the core's revisions, then each plugin's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from bot.errors import StoreError
from bot.store.engine import Store

HERE = Path(__file__).parent
CORE = "core"
_LOCK = 0x676C6D626F74  # "glmbot"


async def upgrade(store: Store, plugins: Mapping[str, Path] | None = None) -> None:
    """Run what is missing under a lock, so that two processes starting together do it once.

    Every plugin with tables has a version table of its own: taking a plugin away never strands the
    others. All of it is one transaction where the database allows that (SQLite and PostgreSQL do).
    Raises StoreError.
    """
    folders = {CORE: HERE / "versions", **(plugins or {})}
    try:
        async with store.engine.begin() as connection:
            await connection.run_sync(_upgrade_all, folders)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot prepare the database {store.place}: {error}") from error


def _upgrade_all(connection: Connection, folders: Mapping[str, Path]) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    for owner, folder in folders.items():
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
