"""Keeps the FAQ's tables in step with its files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

import structlog

from bot import DataError, FileState, glance
from bot.retrieval import Entry
from bot.store import Step, Tally
from plugins.faq.entries import Doubles, Record
from plugins.faq.files import read_file
from plugins.faq.tables import IMPORTED, FaqTable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Synced:
    """All entries of record, the files that could not be taken over, and whether the table was changed."""

    entries: list[Entry]
    problems: list[DataError]
    wrote: bool


@dataclass(frozen=True, slots=True)
class _Read:
    """One file's state, and its records where they changed."""

    state: FileState
    records: list[Record] | None = None


async def sync(table: FaqTable, files: Sequence[Path], *, commit: bool = True) -> Synced:
    """Take changed files into the table and drop the rows of files no longer configured. Raises StoreError.

    A file that cannot be read, or repeats what stands elsewhere, is reported; its last good rows stay.
    Without `commit` the table is left as it is.
    """
    known = await table.files()
    problems: list[DataError] = []
    reads: dict[str, _Read] = {}
    for file in files:
        try:
            reads[str(file)] = await asyncio.to_thread(_read, file, known.get(str(file)))
        except DataError as error:
            problems.append(error)
    stored = before = await table.by_origin()
    gone = (stored.keys() | known.keys()) - {IMPORTED, *map(str, files)}
    stored = {origin: entries for origin, entries in stored.items() if origin not in gone}
    fresh, doubled = await asyncio.to_thread(_without_doubles, stored, reads)
    states = {
        path: read.state
        for path, read in reads.items()
        if read.state != known.get(path) and (read.records is None or path in fresh)
    }
    wrote = commit and bool(fresh or gone or states)
    if wrote:
        await table.write(fresh, files=states, gone=gone, noted=_changes(before, {**stored, **fresh}))
    entries = [entry for group in {**stored, **fresh}.values() for entry in group]
    return Synced(entries, problems + doubled, wrote)


def _changes(before: Mapping[str, Sequence[Entry]], after: Mapping[str, Sequence[Entry]]) -> list[Step]:
    """Counts what is new, changed and gone, by its question."""
    old = {entry.id: entry for entries in before.values() for entry in entries}
    new = {entry.id: entry for entries in after.values() for entry in entries}
    names = [
        *(f"+{entry.texts[0]}" for key, entry in new.items() if key not in old),
        *(f"~{entry.texts[0]}" for key, entry in new.items() if key in old and _differ(old[key], entry)),
        *(f"-{entry.texts[0]}" for key, entry in old.items() if key not in new),
    ]
    now = time()
    return [Tally.add(now, "", "changed", name) for name in names]


def _differ(old: Entry, entry: Entry) -> bool:
    return (old.texts, old.answer) != (entry.texts, entry.answer)


def _read(file: Path, known: FileState | None) -> _Read:
    """The file's state, its records only when its content is new. Raises DataError."""
    try:
        state = glance(file)
        if known is not None and replace(known, digest="") == state:
            return _Read(known)
        state = replace(state, digest=hashlib.sha256(file.read_bytes()).hexdigest())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from error
    return _Read(state, None if known and known.digest == state.digest else read_file(file))


def _without_doubles(
    stored: Mapping[str, Sequence[Entry]], reads: Mapping[str, _Read]
) -> tuple[dict[str, list[Entry]], list[DataError]]:
    """The changed files' entries, less the files that repeat what stands elsewhere.

    A refused file keeps its stored rows, against which the others are then checked once more.
    """
    fresh = {path: read.records for path, read in reads.items() if read.records is not None}
    problems: list[DataError] = []
    while fresh:
        doubles = Doubles()
        for origin, entries in stored.items():
            for entry in entries if origin not in fresh else ():
                doubles.note(entry, Path(origin).name if origin else "the imported entries")
        refused = _first_refused(doubles, fresh)
        if refused is None:
            break
        problems.append(refused[1])
        del fresh[refused[0]]
    return {path: [record.entry for record in records] for path, records in fresh.items()}, problems


def _first_refused(doubles: Doubles, fresh: Mapping[str, Sequence[Record]]) -> tuple[str, DataError] | None:
    for path, records in fresh.items():
        file = Path(path)
        for record in records:
            try:
                doubles.add(record.entry, f"{file.name}, row {record.row}", file=file, row=record.row)
            except DataError as error:
                return path, error
    return None


class FaqSource:
    """The FAQ's entries, for `bot.keep_index`: files first taken into the table, then all of the table."""

    def __init__(self, table: FaqTable, files: Sequence[Path]) -> None:
        self._table = table
        self._files = files

    async def version(self) -> object:
        """Changes with a file's size or time, and with the table. Raises StoreError."""
        return await asyncio.to_thread(self._glances), await self._table.version()

    async def load(self) -> tuple[list[Entry], object]:
        """All entries; files in disorder are logged. Raises DataError when there is nothing else."""
        while True:
            version = await self.version()
            synced = await sync(self._table, self._files)
            if not synced.wrote:  # else once more: only then is it certain what the version stands for
                break
        for problem in synced.problems:
            log.error("a FAQ file is not used, its last good entries stay", problem=str(problem))
        if synced.problems and not synced.entries:
            raise synced.problems[0]
        return synced.entries, version

    def _glances(self) -> list[FileState | None]:
        return [_look(file) for file in self._files]


def _look(file: Path) -> FileState | None:
    """The file at a glance; None while it is not there."""
    try:
        return glance(file)
    except OSError:
        return None
