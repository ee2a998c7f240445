"""The knowledge's store of record: documents and their passages."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

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
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from bot import FileState
from bot.retrieval import Entry
from bot.store import Base, Step, Store

PAGE = 1_000
"""Rows read or written at once: more would hold up the event loop, and messages that are to be stored."""
_UNFINISHED = -1
"""The size noted of a document while its passages are being written."""
_NEVER = 0.0
"""When a document was read that has not been written whole yet."""


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
        KbDocumentRow.read_at > _NEVER,
        tuple_(KbDocumentRow.path, KbPassageRow.position)
        > tuple_(bindparam("after_path"), bindparam("after_position")),
    )
    .order_by(KbDocumentRow.path, KbPassageRow.position)
    .limit(PAGE)
)


_TOUCH = (
    update(KbDocumentRow)
    .where(KbDocumentRow.id == bindparam("key"))
    .values(size=bindparam("now_size"), mtime_ns=bindparam("now_mtime_ns"))
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
        """Changes whenever documents do; one that is being written counts as it was before."""
        rows = await self._store.read(
            select(func.count().label("documents"), func.max(KbDocumentRow.read_at).label("newest")).where(
                KbDocumentRow.read_at > _NEVER
            )
        )
        return rows[0].documents, rows[0].newest or 0.0

    async def write(
        self,
        documents: Sequence[tuple[Stored, Sequence[tuple[str, str]]]] = (),
        *,
        touched: Sequence[Stored] = (),
        gone: Collection[str] = (),
        noted: Sequence[Step] = (),
    ) -> None:
        """Put in documents with (citation, text) passages, note `touched` files' new times, drop `gone` ids.

        Each document is written whole, a long one in pieces between which messages are taken; its state
        comes last: what a crash leaves in pieces counts as unread, and is written anew.
        """
        for id_ in gone:
            await self._mark(id_)
            await self._drop_passages(id_)
            await self._store.execute(delete(KbDocumentRow).where(KbDocumentRow.id == id_))
        for document, pieces in documents:
            if len(pieces) > PAGE:
                await self._write_long(document, pieces)
        for batch in _batches([item for item in documents if len(item[1]) <= PAGE]):
            await self._write_short(batch)
        for start in range(0, len(touched), PAGE):
            await self._touch(touched[start : start + PAGE])
        if noted:  # all of one statement
            async with self._store.session() as session:
                await session.execute(noted[0].statement, [row for step in noted for row in step.rows])

    async def _write_short(self, documents: Sequence[tuple[Stored, Sequence[tuple[str, str]]]]) -> None:
        ids = [document.id for document, _ in documents]
        now = time.time()
        rows = [_document_row(document, now) for document, _ in documents]
        passages = [row for document, pieces in documents for row in _passage_rows(document.id, pieces, 0)]
        async with self._store.session() as session:
            await session.execute(delete(KbPassageRow).where(KbPassageRow.document_id.in_(ids)))
            await session.execute(delete(KbDocumentRow).where(KbDocumentRow.id.in_(ids)))
            await session.execute(insert(KbDocumentRow), rows)
            if passages:
                await session.execute(insert(KbPassageRow), passages)

    async def _write_long(self, document: Stored, pieces: Sequence[tuple[str, str]]) -> None:
        if not await self._mark(document.id):
            begun = replace(document, state=FileState(_UNFINISHED, 0))
            await self._store.execute(insert(KbDocumentRow).values(_document_row(begun, _NEVER)))
        await self._drop_passages(document.id)
        for start in range(0, len(pieces), PAGE):
            rows = _passage_rows(document.id, pieces[start : start + PAGE], start)
            async with self._store.session() as session:
                await session.execute(insert(KbPassageRow), rows)
        row = _document_row(document, time.time())
        await self._store.execute(update(KbDocumentRow).where(KbDocumentRow.id == document.id).values(row))

    async def _mark(self, id_: str) -> bool:
        """Give a document a state that no file has, until it is written or gone; False if there is none."""
        mark = update(KbDocumentRow).where(KbDocumentRow.id == id_).values(size=_UNFINISHED, digest="")
        return bool(await self._store.execute(mark))

    async def _drop_passages(self, id_: str) -> None:
        about = KbPassageRow.document_id == id_
        [row] = await self._store.read(select(func.max(KbPassageRow.position).label("last")).where(about))
        for end in range(PAGE, (row.last or 0) + PAGE + 1, PAGE):
            await self._store.execute(delete(KbPassageRow).where(about, KbPassageRow.position < end))

    async def _touch(self, documents: Sequence[Stored]) -> None:
        rows = [
            {"key": document.id, "now_size": document.state.size, "now_mtime_ns": document.state.mtime_ns}
            for document in documents
        ]
        async with self._store.session() as session:
            await (await session.connection()).execute(_TOUCH, rows)


def _batches(
    documents: Sequence[tuple[Stored, Sequence[tuple[str, str]]]],
) -> Iterator[list[tuple[Stored, Sequence[tuple[str, str]]]]]:
    """Short documents together, up to about a page of passages and documents."""
    batch: list[tuple[Stored, Sequence[tuple[str, str]]]] = []
    rows = 0
    for document, pieces in documents:
        if batch and rows + len(pieces) >= PAGE:
            yield batch
            batch, rows = [], 0
        batch.append((document, pieces))
        rows += len(pieces) + 1
    if batch:
        yield batch


def _passage_rows(id_: str, pieces: Sequence[tuple[str, str]], start: int) -> list[dict[str, object]]:
    return [
        {"document_id": id_, "position": position, "citation": citation, "text": text}
        for position, (citation, text) in enumerate(pieces, start)
    ]


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
