"""A copy of an SQLite database, consistent while the bot runs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from bot.errors import DataError, StoreError
from bot.store.engine import Store
from bot.store.inspection import database_file

LOOK_EVERY = 0.2


async def backup(
    store: Store, target: Path, *, replace: bool = False, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write the database as of now to `target`, which is there whole or not at all; returns its bytes.

    One read transaction: writers go on. `progress` is told bytes written and an upper bound.
    Raises DataError for a target that cannot be, StoreError when the copy fails.
    """
    source = database_file(store.url)
    if source is None:
        raise StoreError(f"{store.place} is no file; use the tools of the database server (pg_dump)")
    await asyncio.to_thread(_check, source, target, replace)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        copying = asyncio.create_task(_copy(store, temporary))
        total = await asyncio.to_thread(_size, source)
        while not (await asyncio.wait({copying}, timeout=LOOK_EVERY))[0]:
            if progress is not None:
                progress(_size(temporary), total)
        await copying
        return await asyncio.to_thread(_put, source, temporary, target)
    except SQLAlchemyError as error:
        raise StoreError(f"the backup failed: {getattr(error, 'orig', error)}") from error
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=target) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check(source: Path, target: Path, replace: bool) -> None:
    if target.exists() and target.samefile(source):
        raise DataError("is the database itself", file=target, remedy="give the backup another name")
    if target.is_dir():
        raise DataError("is a folder", file=target, remedy="add a file name")
    if target.exists() and not replace:
        raise DataError("exists already", file=target, remedy="add --force to replace it")
    if not target.parent.is_dir():
        raise DataError(f"there is no folder {target.parent}", file=target, remedy="create it")
    free, needed = shutil.disk_usage(target.parent).free, _size(source)
    if free < needed:
        raise StoreError(f"{target.parent} has {free >> 20} MiB free, the backup may need {needed >> 20} MiB")


async def _copy(store: Store, file: Path) -> None:
    async with store.engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.exec_driver_sql("VACUUM INTO ?", (str(file),))


def _size(file: Path) -> int:
    """Bytes of a database with its write-ahead log."""
    parts = (file, file.with_name(f"{file.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())


def _put(source: Path, temporary: Path, target: Path) -> int:
    """Make it last, as private as the original, under its name."""
    shutil.copymode(source, temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    size = temporary.stat().st_size
    temporary.replace(target)
    return size
