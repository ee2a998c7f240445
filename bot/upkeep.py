"""Keeps a search index in step with where its entries come from, while the bot serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from bot.background import Background
from bot.errors import BotError

if TYPE_CHECKING:
    from bot.retrieval import Entry, Index

log = structlog.get_logger(__name__)
LOOK_EVERY = 15.0
AT_ONCE = 100
"""Up to this many texts are indexed before messages are taken."""
PATIENCE = 2.0
"""Seconds that more of them may delay the start; then they are indexed while the bot serves."""
_TELL_EVERY = 5.0


class Source(Protocol):
    """Where an index's entries come from. Both methods raise BotError and leave everything as it was."""

    async def version(self) -> object:
        """A value that compares unequal once `load` may give other entries; cheap."""
        ...

    async def load(self) -> tuple[Sequence[Entry], object]:
        """All entries, and their version."""
        ...


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file changed: its size and time at a glance, its digest for sure."""

    size: int
    mtime_ns: int
    digest: str = ""


def glance(file: Path) -> FileState:
    """What can be told of a file without reading it. Raises OSError."""
    found = file.stat()
    return FileState(found.st_size, found.st_mtime_ns)


async def keep_index(
    index: Index, source: Source, background: Background, *, look_every: float | None = None
) -> None:
    """Fill the index, and fill it again whenever the source changes.

    A large one is filled while the bot serves: the very questions are found at once, others by their words
    and more and more by their sense. Raises what the first `load` raises.
    """
    entries, version = await source.load()
    upkeep = _Upkeep(index, source, background, LOOK_EVERY if look_every is None else look_every)
    if sum(len(entry.texts) for entry in entries) <= AT_ONCE:
        await upkeep.fill(entries)
        background.start("index", upkeep.follow(version))
        return
    filled = asyncio.Event()
    background.start("index", upkeep.fill_and_follow(entries, version, filled))
    with suppress(TimeoutError):
        await asyncio.wait_for(filled.wait(), PATIENCE)


@dataclass(frozen=True, slots=True)
class _Upkeep:
    index: Index
    source: Source
    background: Background
    look_every: float

    async def fill_and_follow(self, entries: Sequence[Entry], version: object, filled: asyncio.Event) -> None:
        try:
            await self.fill(entries)
        finally:
            filled.set()
        del entries  # the index has them: nothing else keeps them in memory
        await self.follow(version)

    async def follow(self, version: object) -> None:
        while True:
            await asyncio.sleep(self.look_every)
            try:
                if await self.source.version() != version:
                    version = await self.refill()
            except (BotError, OSError) as error:  # a file may vanish between two looks at it
                plugin = self.background.plugin
                log.error("an index cannot be brought up to date", plugin=plugin, problem=str(error))

    async def refill(self) -> object:
        entries, version = await self.source.load()
        await self.fill(entries)
        return version

    async def fill(self, entries: Sequence[Entry]) -> None:
        """Index the entries in a thread; the old ones answer until then."""
        plugin = self.background.plugin
        began = told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            self.background.check()
            if time.monotonic() - told >= _TELL_EVERY:
                told = time.monotonic()
                log.info("indexing", plugin=plugin, done=done, total=total)

        await asyncio.to_thread(self.index.replace, entries, progress)
        seconds = round(time.monotonic() - began, 2)
        log.info("indexed", plugin=plugin, entries=len(entries), seconds=seconds)
