"""The knowledge's store of record: documents and their passages."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from sqlalchemy.orm import Mapped, mapped_column

from bot import FileState
from bot.retrieval import Entry
from bot.store import Base, Store

PAGE = 1_000
"""Rows read or written at once: more would hold up the event loop."""


class KbDocumentRow(Base):
    """One document; `added` ones stay until removed, the others as long as their file is in a folder."""

    __tablename__ = "kb_document"
    __table_args__ = (Index("ix_kb_document_path", "path", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024))
    title: Mapped[str] = mapped_column(String(512))
    added: Mapped[bool]
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    read_at: Mapped[float]


class KbPassageRow(Base):
    """One passage of a document, in order."""

    __tablename__ = "kb_passage"

    document_id: Mapped[str] = mapped_column(
        ForeignKey("kb_document.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    citation: Mapped[str] = mapped_column(String(512))
    text: Mapped[str] = mapped_column(Text)


@dataclass(frozen=True, slots=True)
class Stored:
    """One document as the table has it."""

    id: str
    path: str
    title: str
    added: bool
    state: FileState
    passages: int = 0


_PAGE_OF_PASSAGES = (
    select(
        KbPassageRow.document_id,
        KbPassageRow.position,
        KbPassageRow.citation,
        KbPassageRow.text,
        KbDocumentRow.path,
    )
    .join(KbDocumentRow, KbDocumentRow.id == KbPassageRow.document_id)
    .where(
        tuple_(KbDocumentRow.path, KbPassageRow.position)
        > tuple_(bindparam("after_path"), bindparam("after_position"))
    )
    .order_by(KbDocumentRow.path, KbPassageRow.position)
    .limit(PAGE)
)


class KnowledgeTable:
    """Reads and writes documents with their passages."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def documents(self) -> list[Stored]:
        """All documents with the number of their passages, by path."""
        rows = await self._store.read(
            select(
                KbDocumentRow.id,
                KbDocumentRow.path,
                KbDocumentRow.title,
                KbDocumentRow.added,
                KbDocumentRow.digest,
                KbDocumentRow.size,
                KbDocumentRow.mtime_ns,
                func.count(KbPassageRow.position).label("passages"),
            )
            .outerjoin(KbPassageRow, KbPassageRow.document_id == KbDocumentRow.id)
            .group_by(KbDocumentRow.id)
            .order_by(KbDocumentRow.path)
        )
        return [
            Stored(
                row.id,
                row.path,
                row.title,
                row.added,
                FileState(row.size, row.mtime_ns, row.digest),
                row.passages,
            )
            for row in rows
        ]

    async def entries(self) -> list[Entry]:
        """All passages as the index takes them."""
        found: list[Entry] = []
        after = {"after_path": "", "after_position": -1}
        while rows := await self._store.read(_PAGE_OF_PASSAGES, after):
            for row in rows:
                key = f"{row.document_id}.{row.position}"
                found.append(Entry(key, (row.text,), row.text, row.citation, row.path))
            after = {"after_path": rows[-1].path, "after_position": rows[-1].position}
        return found

    async def version(self) -> tuple[int, float]:
        """Changes whenever documents do."""
        rows = await self._store.read(
            select(func.count().label("documents"), func.max(KbDocumentRow.read_at).label("newest"))
        )
        return rows[0].documents, rows[0].newest or 0.0

    async def write(
        self,
        documents: Sequence[tuple[Stored, Sequence[tuple[str, str]]]] = (),
        *,
        touched: Sequence[Stored] = (),
        gone: Collection[str] = (),
    ) -> None:
        """Put in documents with (citation, text) passages, note `touched` files' new times, drop `gone` ids.

        All or nothing.
        """
        now = time.time()
        rows = [_document_row(document, now) for document, _ in documents]
        passages = [
            {"document_id": document.id, "position": position, "citation": citation, "text": text}
            for document, pieces in documents
            for position, (citation, text) in enumerate(pieces)
        ]
        async with self._store.session() as session:
            for id_ in (*gone, *(document.id for document, _ in documents)):
                await session.execute(delete(KbPassageRow).where(KbPassageRow.document_id == id_))
                await session.execute(delete(KbDocumentRow).where(KbDocumentRow.id == id_))
            if rows:
                await session.execute(insert(KbDocumentRow), rows)
            for start in range(0, len(passages), PAGE):
                await session.execute(insert(KbPassageRow), passages[start : start + PAGE])
            for document in touched:
                row = await session.get(KbDocumentRow, document.id)
                if row is not None:
                    row.size, row.mtime_ns = document.state.size, document.state.mtime_ns


def _document_row(document: Stored, now: float) -> dict[str, object]:
    return {
        "id": document.id,
        "path": document.path,
        "title": document.title,
        "added": document.added,
        "digest": document.state.digest,
        "size": document.state.size,
        "mtime_ns": document.state.mtime_ns,
        "read_at": now,
    }
