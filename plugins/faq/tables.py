"""The FAQ's store of record: entries with where they came from, and the files they were read from."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import BigInteger, Index, String, Text, bindparam, delete, func, insert, select, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from bot import FileState
from bot.retrieval import Entry
from bot.store import Base, Store

PAGE = 2_000
"""Rows read or written at once: more would hold up the event loop."""
IMPORTED = ""
"""The origin of entries that `glmbot faq import` brought; every other origin is a file's path."""


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
    """A file of the configuration, as it was when its entries were read."""

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
        tuple_(FaqEntryRow.origin, FaqEntryRow.position)
        > tuple_(bindparam("after_origin"), bindparam("after_position"))
    )
    .order_by(FaqEntryRow.origin, FaqEntryRow.position)
    .limit(PAGE)
)


class FaqTable:
    """Reads and writes the entries of record."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def by_origin(self) -> dict[str, list[Entry]]:
        """All entries, grouped by origin, in order."""
        found: dict[str, list[Entry]] = {}
        after = {"after_origin": "", "after_position": -1}
        while rows := await self._store.read(_PAGE_OF_ENTRIES, after):
            for row in rows:
                texts, tags = json.loads(row.texts), json.loads(row.tags)
                found.setdefault(row.origin, []).append(
                    Entry(row.id, tuple(texts), row.answer, texts[0], row.origin, tuple(tags))
                )
            after = {"after_origin": rows[-1].origin, "after_position": rows[-1].position}
        return found

    async def files(self) -> dict[str, FileState]:
        """The files read so far, by path."""
        rows = await self._store.read(
            select(FaqFileRow.path, FaqFileRow.digest, FaqFileRow.size, FaqFileRow.mtime_ns)
        )
        return {row.path: FileState(row.size, row.mtime_ns, row.digest) for row in rows}

    async def version(self) -> tuple[int, float]:
        """Changes whenever entries do."""
        rows = await self._store.read(
            select(func.count().label("entries"), func.max(FaqEntryRow.changed_at).label("newest"))
        )
        return rows[0].entries, rows[0].newest or 0.0

    async def write(
        self,
        changed: Mapping[str, Sequence[Entry]],
        *,
        files: Mapping[str, FileState] | None = None,
        gone: Collection[str] = (),
    ) -> None:
        """Make these the entries of their origins, note files' states, drop what is gone: all or nothing."""
        files = files or {}
        states = [
            {"path": path, "digest": state.digest, "size": state.size, "mtime_ns": state.mtime_ns}
            for path, state in files.items()
        ]
        async with self._store.session() as session:
            for origin in {*changed, *gone}:
                await session.execute(delete(FaqEntryRow).where(FaqEntryRow.origin == origin))
            for path in {*files, *gone}:
                await session.execute(delete(FaqFileRow).where(FaqFileRow.path == path))
            for origin, entries in changed.items():
                for start in range(0, len(entries), PAGE):
                    rows = _rows(origin, entries[start : start + PAGE], start)
                    await session.execute(insert(FaqEntryRow), rows)
            if states:
                await session.execute(insert(FaqFileRow), states)


def _rows(origin: str, entries: Sequence[Entry], start: int) -> list[dict[str, object]]:
    now = time.time()
    return [
        {
            "id": entry.id,
            "origin": origin,
            "position": position,
            "texts": json.dumps(entry.texts, ensure_ascii=False),
            "answer": entry.answer,
            "tags": json.dumps(entry.tags, ensure_ascii=False),
            "changed_at": now,
        }
        for position, entry in enumerate(entries, start)
    ]
