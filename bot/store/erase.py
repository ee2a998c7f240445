"""Removes everything stored about one user, from every table that knows users."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    TableClause,
    and_,
    column,
    delete,
    func,
    inspect,
    or_,
    select,
    table,
)
from sqlalchemy.exc import SQLAlchemyError

from bot.errors import StoreError
from bot.session import SEPARATOR
from bot.store.engine import Store


@dataclass(frozen=True, slots=True)
class Person:
    """A user of a connector: `place` is its name where its `platform` is given, else name or platform."""

    user: str
    place: str
    platform: str | None = None


async def count_rows(store: Store, person: Person) -> dict[str, int]:
    """How many rows each table holds about a person; tables without any are left out. Raises StoreError."""
    async with store.session() as session:
        return await (await session.connection()).run_sync(_count, person)


async def erase(store: Store, person: Person) -> dict[str, int]:
    """Remove a person's rows in one transaction; returns their number by table. Raises StoreError.

    Every table with the columns `connector` and `user` takes part, those of plugins too, whether they are
    loaded or not. SQLite overwrites what is removed and empties its log, as far as no one else reads it.
    """
    async with store.session() as session:
        removed = await (await session.connection()).run_sync(_erase, person)
    try:
        async with store.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    except SQLAlchemyError as error:
        raise StoreError(
            f"the rows are removed, but the log could not be emptied: {getattr(error, 'orig', error)}"
        ) from error
    return removed


def _count(connection: Connection, person: Person) -> dict[str, int]:
    found = {
        rows.name: connection.scalar(select(func.count()).select_from(rows).where(about))
        for rows, about in _tables(connection, person)
    }
    return {name: number for name, number in found.items() if number}


def _erase(connection: Connection, person: Person) -> dict[str, int]:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    removed = {
        rows.name: connection.execute(delete(rows).where(about)).rowcount
        for rows, about in _tables(connection, person)
    }
    return {name: number for name, number in removed.items() if number}


def _tables(connection: Connection, person: Person) -> list[tuple[TableClause, ColumnElement[bool]]]:
    """Every table that knows users, and which of its rows are about the person."""
    inspector = inspect(connection)
    found = []
    for name in inspector.get_table_names():
        columns = {item["name"] for item in inspector.get_columns(name)}
        if {"connector", "user"} <= columns:
            rows = table(name, *(column(item) for item in columns))
            found.append((rows, _about(rows, person)))
    return found


def _about(rows: TableClause, person: Person) -> ColumnElement[bool]:
    """The condition; a table without `bot` tells bots apart by the session key, where it has one."""
    here = rows.c.connector == (person.platform or person.place)
    named: ColumnElement[bool] | None = None
    if "bot" in rows.c:
        named = rows.c.bot == person.place
    elif "session" in rows.c:
        start = rows.c.connector.concat(f"{SEPARATOR}{person.place}{SEPARATOR}")
        named = func.substr(rows.c.session, 1, func.length(start)) == start
    if named is not None:
        here = and_(here, named) if person.platform else or_(here, named)
    return and_(rows.c.user == person.user, here)
