"""The FAQ's store of record: entries with where they came from, and the files they were read from."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Index,
    Row,
    String,
    Text,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from bot import FileState
from bot.retrieval import Entry
from bot.store import Base, Step, Store

PAGE = 1_000
"""Rows read or written at once: more would hold up the event loop, and messages that are to be stored."""
IMPORTED = ""
"""The origin of entries that `glmbot faq import` brought; every other origin is a file's path."""
_UNFINISHED = -1
"""The size noted of a file while its entries are being written."""
_Place = tuple[str, int, Entry]
"""An entry's origin, its position there, and the entry."""


class FaqEntryRow(Base):
    """One entry; `position` is its place in its origin."""

    __tablename__ = "faq_entry"
    __table_args__ = (Index("ix_faq_entry_origin", "origin", "position"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    origin: Mapped[str] = mapped_column(String(1024))
    position: Mapped[int]
    texts: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text)
    changed_at: Mapped[float]


class FaqFileRow(Base):
    """A file of the configuration, as it was when its entries were read; imports have a row too."""

    __tablename__ = "faq_file"

    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)


_PAGE_OF_ENTRIES = (
    select(
        FaqEntryRow.id,
        FaqEntryRow.origin,
        FaqEntryRow.position,
        FaqEntryRow.texts,
        FaqEntryRow.answer,
        FaqEntryRow.tags,
    )
    .where(
        tuple_(FaqEntryRow.origin, FaqEntryRow.position, FaqEntryRow.id)
        > tuple_(bindparam("after_origin"), bindparam("after_position"), bindparam("after_id"))
    )
    .order_by(FaqEntryRow.origin, FaqEntryRow.position, FaqEntryRow.id)
    .limit(PAGE)
)


class FaqTable:
    """Reads and writes the entries of record."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def by_origin(self) -> dict[str, list[Entry]]:
        """All entries, grouped by origin, in order."""
        found: dict[str, list[Entry]] = {}
        async for row in self._rows():
            texts, tags = json.loads(row.texts), json.loads(row.tags)
            found.setdefault(row.origin, []).append(
                Entry(row.id, tuple(texts), row.answer, texts[0], row.origin, tuple(tags))
            )
        return found

    async def files(self) -> dict[str, FileState]:
        """The files read so far, by path; what was left in pieces has a state that no file has."""
        rows = await self._store.read(
            select(FaqFileRow.path, FaqFileRow.digest, FaqFileRow.size, FaqFileRow.mtime_ns).where(
                FaqFileRow.path != IMPORTED
            )
        )
        return {
            row.path: FileState(row.size, row.mtime_ns, "" if row.size == _UNFINISHED else row.digest)
            for row in rows
        }

    async def version(self) -> tuple[tuple[str, str], ...]:
        """Changes once other entries stand there whole: every origin with the digest of its contents."""
        rows = await self._store.read(select(FaqFileRow.path, FaqFileRow.digest).order_by(FaqFileRow.path))
        return tuple((row.path, row.digest) for row in rows)

    async def write(
        self,
        changed: Mapping[str, Sequence[Entry]],
        *,
        files: Mapping[str, FileState] | None = None,
        gone: Collection[str] = (),
        noted: Sequence[Step] = (),
    ) -> None:
        """Make these the entries of their origins, note files' states, drop what is gone; `noted` comes last.

        Only the difference is written, in pieces between which messages are taken. The states come last:
        what a crash leaves in pieces counts as unread, and is written anew.
        """
        origins = {*changed, *gone}
        states = dict(files or {})
        if IMPORTED in changed:
            states[IMPORTED] = FileState(0, 0, secrets.token_hex(32))
        await self._store.execute(
            update(FaqFileRow).where(FaqFileRow.path.in_(origins)).values(size=_UNFINISHED)
        )
        wanted = await asyncio.to_thread(_wanted, changed)
        stale = await self._compare(wanted, origins)
        for start in range(0, len(stale), PAGE):
            piece = stale[start : start + PAGE]
            await self._store.execute(delete(FaqEntryRow).where(FaqEntryRow.id.in_(piece)))
        left = list(wanted.values())
        for start in range(0, len(left), PAGE):
            await self._replace([_row(*place) for place in left[start : start + PAGE]])
        await self._put_states(states, gone, noted)

    async def _compare(self, wanted: dict[str, _Place], origins: Collection[str]) -> list[str]:
        """Take out of `wanted` what stands there already; returns the ids of rows that nobody wants."""
        stale: list[str] = []
        async for row in self._rows():
            if row.origin in origins:
                place = wanted.get(row.id)
                if place is None:
                    stale.append(row.id)
                elif all(getattr(row, name) == value for name, value in _row(*place).items()):
                    del wanted[row.id]
        return stale

    async def _replace(self, rows: Sequence[Mapping[str, object]]) -> None:
        now = time.time()
        async with self._store.session() as session:
            await session.execute(delete(FaqEntryRow).where(FaqEntryRow.id.in_([row["id"] for row in rows])))
            await session.execute(insert(FaqEntryRow), [{**row, "changed_at": now} for row in rows])

    async def _put_states(
        self, states: Mapping[str, FileState], gone: Collection[str], noted: Sequence[Step]
    ) -> None:
        rows = [
            {"path": path, "digest": state.digest, "size": state.size, "mtime_ns": state.mtime_ns}
            for path, state in states.items()
        ]
        async with self._store.session() as session:
            await session.execute(delete(FaqFileRow).where(FaqFileRow.path.in_({*states, *gone})))
            if rows:
                await session.execute(insert(FaqFileRow), rows)
            if noted:  # all of one statement
                await session.execute(noted[0].statement, [row for step in noted for row in step.rows])

    async def _rows(self) -> AsyncIterator[Row[Any]]:
        """Every entry's row, in order, read by pages."""
        after = {"after_origin": "", "after_position": -1, "after_id": ""}
        while rows := await self._store.read(_PAGE_OF_ENTRIES, after):
            for row in rows:
                yield row
            last = rows[-1]
            after = {"after_origin": last.origin, "after_position": last.position, "after_id": last.id}


def _wanted(changed: Mapping[str, Sequence[Entry]]) -> dict[str, _Place]:
    """The entries by id, each with its place."""
    return {
        entry.id: (origin, position, entry)
        for origin, entries in changed.items()
        for position, entry in enumerate(entries)
    }


def _row(origin: str, position: int, entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "origin": origin,
        "position": position,
        "texts": json.dumps(entry.texts, ensure_ascii=False),
        "answer": entry.answer,
        "tags": json.dumps(entry.tags, ensure_ascii=False),
    }
