"""The database: one group-committing writer, many readers, SQLite in WAL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import structlog
from sqlalchemy import Executable, event, make_url
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from bot.errors import StoreError

log = structlog.get_logger(__name__)
Rows = Sequence[Row[Any]]
T = TypeVar("T")
MAX_GROUP = 512
CHECKPOINT_EVERY = 1.0
LONG_LOG = 16_000
"""Pages (of 4 KiB) from which the log is cut, whoever has to wait for it."""
_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One statement with the rows it is executed for; equal statements of a group run as one executemany.

    Statements are module-level constants: steps are grouped by the statement's identity.
    """

    statement: Executable
    rows: Sequence[Mapping[str, Any]]


@dataclass(slots=True, eq=False)
class _Unit:
    steps: Sequence[Step]
    done: asyncio.Future[Mapping[Executable, Rows]]


class Store:
    """Reads run on pooled connections; writes are units that are all or nothing.

    Units that arrive while a commit is under way share the next one: under load the cost of a commit is
    divided by their number, at rest nobody waits. When a group fails, its units are tried one by one,
    so that one bad unit fails alone.
    """

    def __init__(
        self, url: str, *, synchronous: Literal["normal", "full"] = "normal", busy_timeout: float = 5.0
    ) -> None:
        parsed = make_url(url)
        self.url = url
        self.place = parsed.render_as_string(hide_password=True)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        memory = self._sqlite and parsed.database in (None, "", ":memory:")
        pool: dict[str, Any] = {"poolclass": StaticPool} if memory else {"pool_size": 4, "max_overflow": 4}
        try:
            self.engine: AsyncEngine = create_async_engine(url, **pool)
        except ModuleNotFoundError as error:
            raise StoreError(f"{self.place} needs a driver; run: pip install {error.name}") from error
        if self._sqlite:
            _tune(self.engine, synchronous, busy_timeout)
        self._pending: list[_Unit] = []
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        # The one connection of a database in memory cannot read in the midst of a write.
        self._reading = self._writing if memory else None
        self._writer: asyncio.Task[None] | None = None
        self._checkpointer: asyncio.Task[None] | None = None
        self._dirty = False
        self._running: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._troubled = False

    def start(self) -> None:
        """Start the writer; needs a running event loop."""
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_groups(), name="store-writer")
            if self._sqlite and self._reading is None:
                self._checkpointer = asyncio.create_task(self._checkpoint(), name="store-checkpointer")

    async def close(self) -> None:
        """Finish the writes handed in and close every connection."""
        if self._writer is not None:
            self._closing = True
            self._wake.set()
            await self._writer
            self._writer = None
        if self._checkpointer is not None:
            self._checkpointer.cancel()
            await asyncio.gather(self._checkpointer, return_exceptions=True)
        if self._running:
            await asyncio.wait(set(self._running))
        await self.engine.dispose()

    async def write(self, *steps: Step) -> Mapping[Executable, Rows]:
        """Commit `steps` together; returns what RETURNING statements gave *for the whole group*.

        Raises StoreError when nothing was written.
        """
        if self._writer is None or self._closing:
            raise StoreError("the store is not open")
        unit = _Unit(steps, asyncio.get_running_loop().create_future())
        self._pending.append(unit)
        self._wake.set()
        return await unit.done

    async def read(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Rows:
        """All rows of a SELECT. Raises StoreError."""
        return await self._to_the_end(self._read(statement, parameters))

    async def execute(self, statement: Executable) -> int:
        """Run one statement in a transaction of its own; returns the number of rows it touched."""
        return await self._to_the_end(self._execute(statement))

    async def probe(self) -> None:
        """After a write was refused, see whether the next one would be taken. Raises StoreError."""
        if self._troubled:
            await self._to_the_end(self._take_write_lock())
            self._troubled = False

    async def _take_write_lock(self) -> None:
        async with self._writing:
            try:
                async with self.engine.connect() as connection:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
            except SQLAlchemyError as error:
                raise store_error(error) from error

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work that a cancelled caller must not break off: a driver in mid-call is left unusable."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _read(self, statement: Executable, parameters: Mapping[str, Any] | None) -> Rows:
        try:
            async with self._reading or nullcontext(), self.engine.connect() as connection:
                return (await connection.execute(statement, parameters)).all()
        except SQLAlchemyError as error:
            raise store_error(error) from error

    async def _execute(self, statement: Executable) -> int:
        async with self.session() as session:
            result = await session.execute(statement)
            return int(getattr(result, "rowcount", 0))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """An ORM session in one transaction of its own, serialised with the writer. Raises StoreError."""
        async with self._writing:
            try:
                async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                    yield session
            except SQLAlchemyError as error:
                raise store_error(error) from error

    async def _checkpoint(self) -> None:
        """Move the write-ahead log into the database now and then, while commits go on.

        Left to SQLite, a commit would do it, and everybody would wait for the disk to sync.
        """
        while True:
            await asyncio.sleep(CHECKPOINT_EVERY)
            if not self._dirty:
                continue
            self._dirty = False
            try:
                pages = await self._to_the_end(self._move_log("PASSIVE"))
                if pages > LONG_LOG:  # under load it never ends by itself: let the writer wait once
                    async with self._writing:
                        await self._to_the_end(self._move_log("TRUNCATE"))
            except SQLAlchemyError as error:
                log.warning("the write-ahead log cannot be moved", problem=store_error(error).problem)

    async def _move_log(self, mode: str) -> int:
        """Checkpoint; returns the number of pages in the log."""
        async with self.engine.connect() as connection:
            row: Sequence[Any] = (await connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})")).one()
            return int(row[1])

    async def _write_groups(self) -> None:
        while self._pending or not self._closing:
            await self._wake.wait()
            group, self._pending = self._pending[:MAX_GROUP], self._pending[MAX_GROUP:]
            if not self._pending and not self._closing:
                self._wake.clear()
            if group:
                async with self._writing:
                    await self._commit(group)

    async def _commit(self, group: Sequence[_Unit]) -> None:
        try:
            async with self.engine.begin() as connection:
                returned = await _run_group(connection, group)
        except Exception as error:  # whatever one unit brings along, the writer goes on for the others
            failure = store_error(error)
            if failure.transient:
                log.error("the database takes no writes", place=self.place, problem=failure.problem)
                self._troubled = True
            if len(group) > 1 and not failure.transient:
                for unit in group:
                    await self._commit([unit])
                return
            for unit in group:
                if not unit.done.done():
                    unit.done.set_exception(failure)
            return
        self._troubled, self._dirty = False, True
        for unit in group:
            if not unit.done.done():
                unit.done.set_result(returned)


async def _run_group(connection: AsyncConnection, group: Sequence[_Unit]) -> dict[Executable, Rows]:
    merged: dict[Executable, list[Mapping[str, Any]]] = {}
    for unit in group:
        for step in unit.steps:
            merged.setdefault(step.statement, []).extend(step.rows)
    returned: dict[Executable, Rows] = {}
    for statement, rows in merged.items():
        if rows:
            result = await connection.execute(statement, rows)
            returned[statement] = result.all() if result.returns_rows else ()
    return returned


def store_error(error: Exception) -> StoreError:
    """The driver's own words: SQLAlchemy's carry the statement and its parameters, users' texts included."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    transient = isinstance(error, OperationalError) if code is None else code & 0xFF in _TRANSIENT
    told = str(cause) if isinstance(error, DBAPIError) else type(error).__name__
    return StoreError(told, transient=transient)


def _tune(engine: AsyncEngine, synchronous: str, busy_timeout: float) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous.upper()}")
        cursor.execute(f"PRAGMA busy_timeout={round(busy_timeout * 1000)}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA wal_autocheckpoint=0")  # Store checkpoints beside the writer
        cursor.close()
