"""The FAQ's store of record: entries with where they came from, and the files they were read from."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import BigInteger, Index, String, Text, delete, func, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from bot import FileState
from bot.retrieval import Entry
from bot.store import Base, Store

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


class FaqTable:
    """Reads and writes the entries of record."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def by_origin(self) -> dict[str, list[Entry]]:
        """All entries, grouped by origin, in order."""
        rows = await self._store.read(
            select(
                FaqEntryRow.id, FaqEntryRow.origin, FaqEntryRow.texts, FaqEntryRow.answer, FaqEntryRow.tags
            ).order_by(FaqEntryRow.origin, FaqEntryRow.position)
        )
        found: dict[str, list[Entry]] = {}
        for row in rows:
            texts = tuple(json.loads(row.texts))
            tags = tuple(json.loads(row.tags))
            entry = Entry(row.id, texts, row.answer, title=texts[0], source=row.origin, tags=tags)
            found.setdefault(row.origin, []).append(entry)
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
        changed: Mapping[str, Iterable[Entry]],
        *,
        files: Mapping[str, FileState] | None = None,
        gone: Collection[str] = (),
    ) -> None:
        """Make these the entries of their origins, note files' states, drop what is gone: all or nothing."""
        files = files or {}
        rows = [row for origin, entries in changed.items() for row in _rows(origin, entries)]
        states = [
            {"path": path, "digest": state.digest, "size": state.size, "mtime_ns": state.mtime_ns}
            for path, state in files.items()
        ]
        async with self._store.session() as session:
            for origin in {*changed, *gone}:
                await session.execute(delete(FaqEntryRow).where(FaqEntryRow.origin == origin))
            for path in {*files, *gone}:
                await session.execute(delete(FaqFileRow).where(FaqFileRow.path == path))
            if rows:
                await session.execute(insert(FaqEntryRow), rows)
            if states:
                await session.execute(insert(FaqFileRow), states)


def _rows(origin: str, entries: Iterable[Entry]) -> list[dict[str, object]]:
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
        for position, entry in enumerate(entries)
    ]
