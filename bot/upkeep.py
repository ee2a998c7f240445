"""Keeps a search index in step with where its entries come from, while the bot serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from bot.background import Background
from bot.errors import BotError

if TYPE_CHECKING:
    from bot.retrieval import Entry, Index

log = structlog.get_logger(__name__)
LOOK_EVERY = 15.0
AT_ONCE = 2_000
"""Up to this many texts, of some 100 characters, are indexed before messages are taken, more meanwhile."""
_TELL_EVERY = 5.0


class Source(Protocol):
    """Where an index's entries come from. Both methods raise BotError and leave everything as it was."""

    async def version(self) -> object:
        """A value that compares unequal once `load` may give other entries; cheap."""
        ...

    async def load(self) -> tuple[Sequence[Entry], object]:
        """All entries, and their version."""
        ...


async def keep_index(
    index: Index, source: Source, background: Background, *, look_every: float = LOOK_EVERY
) -> None:
    """Fill the index, a large one in the background, and fill it again whenever the source changes.

    Raises what the first `load` raises.
    """
    entries, version = await source.load()
    pieces = sum(len(text) // 100 + 1 for entry in entries for text in entry.texts)
    late: Sequence[Entry] | None = entries
    if pieces <= AT_ONCE:
        await _fill(index, entries, background)
        late = None
    background.start("index", _follow(index, source, background, look_every, version, late))


async def _follow(
    index: Index,
    source: Source,
    background: Background,
    look_every: float,
    version: object,
    late: Sequence[Entry] | None,
) -> None:
    if late is not None:
        await _fill(index, late, background)
        late = None  # the index has them: nothing else keeps them in memory
    while True:
        await asyncio.sleep(look_every)
        try:
            if await source.version() != version:
                entries, version = await source.load()
                await _fill(index, entries, background)
        except BotError as error:
            log.error("an index cannot be brought up to date", plugin=background.plugin, problem=str(error))


async def _fill(index: Index, entries: Sequence[Entry], background: Background) -> None:
    """Index the entries in a thread; the old ones answer until then."""
    began = told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        background.check()
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            log.info("indexing", plugin=background.plugin, done=done, total=total)

    await asyncio.to_thread(index.replace, entries, progress)
    seconds = round(time.monotonic() - began, 2)
    log.info("indexed", plugin=background.plugin, entries=len(entries), seconds=seconds)
