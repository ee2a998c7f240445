"""Keeps the knowledge's tables in step with its folders."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time

import structlog

from bot import DataError, FileState, glance
from bot.retrieval import Entry
from bot.store import Step, Tally
from plugins.knowledge.documents import MAX_FILE, find_documents, read_document
from plugins.knowledge.passages import passages
from plugins.knowledge.tables import KnowledgeTable, Stored

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reading:
    """What reading files gave: new contents, files whose time alone changed, and what could not be read."""

    documents: list[tuple[Stored, list[tuple[str, str]]]] = field(default_factory=list)
    touched: list[Stored] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)

    def join(self, other: Reading) -> None:
        """Take in what another reading gave."""
        self.documents += other.documents
        self.touched += other.touched
        self.problems += other.problems


def document_id(path: Path) -> str:
    """A short id that a document keeps as long as it stays where it is."""
    return hashlib.sha256(str(path).encode(errors="surrogatepass")).hexdigest()[:10]


def list_files(folders: Sequence[Path]) -> tuple[list[Path], list[DataError]]:
    """The documents of folders and single files, each once, and what cannot be listed."""
    files: dict[Path, None] = {}
    problems: list[DataError] = []
    for folder in folders:
        try:
            if not folder.exists():
                raise DataError("no such file or folder", file=folder)
            files.update(dict.fromkeys([folder] if folder.is_file() else find_documents(folder)))
        except DataError as error:
            problems.append(error)
        except OSError as error:
            problems.append(DataError(f"cannot be read: {error.strerror or error}", file=folder))
    return list(files), problems


def read_files(files: Sequence[Path], known: Mapping[str, Stored], *, added: bool) -> Reading:
    """Read those files whose content is not known; one bad file does not stop the others."""
    reading = Reading()
    for file in files:
        try:
            before = known.get(str(file))
            state = glance(file)
            if before and before.added == added and replace(before.state, digest="") == state:
                continue
            if state.size > MAX_FILE:
                raise DataError(f"the file has {state.size >> 20} MiB", file=file, remedy="split it")
            raw = file.read_bytes()
            state = replace(state, digest=hashlib.sha256(raw).hexdigest())
            if before and before.added == added and before.state.digest == state.digest:
                reading.touched.append(replace(before, state=state))
                continue
            document = read_document(file, raw)
        except DataError as error:
            reading.problems.append(error)
        except OSError as error:
            reading.problems.append(DataError(f"cannot be read: {error.strerror or error}", file=file))
        else:
            stored = Stored(document_id(file), str(file), document.title[:512], added, state)
            reading.documents.append((stored, list(passages(document))))
    return reading


@dataclass(frozen=True, slots=True)
class Synced:
    """What could not be read, and whether the table was changed."""

    problems: list[DataError]
    wrote: bool


async def sync(table: KnowledgeTable, folders: Sequence[Path]) -> Synced:
    """Take changed files of the folders into the table, and drop those that vanished.

    What was added by hand stays. A file or folder that cannot be read any more keeps its last good passages.
    Raises StoreError.
    """
    known = {document.path: document for document in await table.documents()}
    files, problems = await asyncio.to_thread(list_files, folders)
    added = {path for path, document in known.items() if document.added}
    from_folders = [file for file in files if str(file) not in added]
    reading = await asyncio.to_thread(read_files, from_folders, known, added=False)
    present = set(map(str, files))
    lost = [problem.file for problem in problems if problem.file]
    gone = [
        document.id
        for path, document in known.items()
        if not document.added and path not in present and not any(map(Path(path).is_relative_to, lost))
    ]
    wrote = bool(reading.documents or reading.touched or gone)
    if wrote:
        titles = {document.id: document.title for document in known.values()}
        await table.write(
            reading.documents,
            touched=reading.touched,
            gone=gone,
            noted=[
                *(_changed(f"-{titles[key]}") for key in gone),
                *(_changed(f"{'~' if new.id in titles else '+'}{new.title}") for new, _ in reading.documents),
            ],
        )
    return Synced(problems + reading.problems, wrote)


def _changed(name: str) -> Step:
    return Tally.add(time(), "", "changed", name)


class DocumentSource:
    """The passages of all documents, for `bot.keep_index`: folders first taken into the table."""

    def __init__(self, table: KnowledgeTable, folders: Sequence[Path]) -> None:
        self._table = table
        self._folders = folders

    async def version(self) -> object:
        """Changes with any file's size or time, and with the table. Raises StoreError."""
        return await asyncio.to_thread(self._glances), await self._table.version()

    async def load(self) -> tuple[list[Entry], object]:
        """All passages; documents that cannot be read are logged. Raises StoreError."""
        while True:
            version = await self.version()
            synced = await sync(self._table, self._folders)
            if not synced.wrote:  # else once more: only then is it certain what the version stands for
                break
        for problem in synced.problems:
            log.error("a document is not read", problem=str(problem))
        return await self._table.entries(), version

    def _glances(self) -> dict[Path, FileState]:
        found: dict[Path, FileState] = {}
        for file in list_files(self._folders)[0]:
            with suppress(OSError):  # it may vanish at any moment
                found[file] = glance(file)
        return found
