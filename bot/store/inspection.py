"""What can be told of a database from outside: where it is, whether it takes writes, its schema's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, column, inspect, make_url, select, table
from sqlalchemy.exc import SQLAlchemyError

from bot.errors import StoreError
from bot.store.engine import Store
from bot.store.migrations import CORE, HERE, version_table


@dataclass(frozen=True, slots=True)
class Revision:
    """One owner's schema: the revision it has (None: no tables yet) and the newest this version brings."""

    owner: str
    current: str | None
    newest: str | None
    known: bool

    @property
    def is_newest(self) -> bool:
        """Whether there is nothing to do."""
        return self.current == self.newest


def database_file(url: str) -> Path | None:
    """The file of an SQLite database; None for one in memory or on a server."""
    parsed = make_url(url)
    name = parsed.database
    if parsed.get_backend_name() != "sqlite" or name in (None, "", ":memory:"):
        return None
    return Path(urlsplit(name).path) if name.startswith("file:") else Path(name)


def existing_store(url: str) -> Store:
    """A Store on a database that is there. Raises StoreError where its file is missing."""
    file = database_file(url)
    if file is not None and not file.exists():
        raise StoreError(f"there is no database at {file}; the first `glmbot run` makes it")
    return Store(url)


async def check_writable(store: Store) -> None:
    """Take the write lock for a moment. Raises StoreError."""
    try:
        async with store.engine.connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            await connection.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "SELECT 1")
            await connection.rollback()
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(str(getattr(error, "orig", error))) from error


async def revisions(store: Store, plugins: Mapping[str, Path]) -> list[Revision]:
    """The state of the core's schema and of each plugin's, by its folder of revisions. Raises StoreError."""
    folders = {CORE: HERE / "versions", **plugins}
    try:
        async with store.engine.connect() as connection:
            current = await connection.run_sync(_current, tuple(folders))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(str(getattr(error, "orig", error))) from error
    found = []
    for owner, folder in folders.items():
        script = ScriptDirectory(str(HERE), version_locations=[str(folder)])
        found.append(
            Revision(owner, current[owner], script.get_current_head(), _knows(script, current[owner]))
        )
    return found


def _current(connection: Connection, owners: tuple[str, ...]) -> dict[str, str | None]:
    tables = set(inspect(connection).get_table_names())
    return {
        owner: connection.scalar(select(table(version_table(owner), column("version_num")).c.version_num))
        if version_table(owner) in tables
        else None
        for owner in owners
    }


def _knows(script: ScriptDirectory, revision: str | None) -> bool:
    try:
        return revision is None or script.get_revision(revision) is not None
    except CommandError:
        return False
