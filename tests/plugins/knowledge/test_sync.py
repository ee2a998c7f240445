"""The knowledge's tables: only what changed is read, one bad file stops nothing, added documents stay."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot import FileState, glance
from bot.errors import StoreError
from bot.store import Store
from bot.store.migrations import upgrade
from plugins.knowledge.plugin import plugin
from plugins.knowledge.sync import DocumentSource, document_id, read_files, sync
from plugins.knowledge.tables import KnowledgeTable
from tests.plugins.cut_store import Cut


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[KnowledgeTable]:
    assert plugin.tables is not None
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'kb.db'}")
    await upgrade(store, {plugin.name: plugin.tables})
    yield KnowledgeTable(store)
    await store.close()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# A\nalpha")
    (folder / "b.md").write_text("# B\nbeta\n## C\ngamma")
    return folder


def change(file: Path, text: str | bytes) -> None:
    stamp = file.stat().st_mtime_ns + 10**9
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(file, ns=(stamp, stamp))


def vanish(file: Path) -> FileState:
    """What a look finds when the file is replaced at that moment."""
    file.unlink()
    return glance(file)


async def texts(table: KnowledgeTable) -> list[str]:
    return [entry.answer for entry in await table.entries()]


async def test_the_table_follows_the_folders(table: KnowledgeTable, docs: Path) -> None:
    assert (await sync(table, [docs])).problems == []
    entries = await table.entries()
    assert [(entry.title, entry.answer) for entry in entries] == [
        ("A", "alpha"),
        ("B", "beta"),
        ("B › C", "gamma"),
    ]
    assert len({entry.id for entry in entries}) == 3
    change(docs / "a.md", "# A\nnew")
    (docs / "b.md").unlink()
    assert (await sync(table, [docs])).problems == []
    assert await texts(table) == ["new"]
    assert (await sync(table, [])).problems == []
    assert await texts(table) == []


async def test_unchanged_files_are_not_read_again(table: KnowledgeTable, docs: Path) -> None:
    await sync(table, [docs])
    before = await table.documents()
    os.utime(docs / "a.md", ns=(1, 1))
    known = {document.path: document for document in before}
    reading = read_files([docs / "a.md", docs / "b.md"], known, added=False)
    assert (reading.documents, reading.problems) == ([], [])
    assert [Path(document.path).name for document in reading.touched] == ["a.md"]
    await sync(table, [docs])
    after = await table.documents()
    assert [d.id for d in after] == [d.id for d in before]
    assert after[0].state.mtime_ns == 1


async def test_a_file_that_breaks_keeps_its_last_good_passages(table: KnowledgeTable, docs: Path) -> None:
    await sync(table, [docs])
    change(docs / "a.md", b"\x00")
    change(docs / "b.md", "# B\nnew")
    [problem] = (await sync(table, [docs])).problems
    assert problem.file == docs / "a.md"
    assert await texts(table) == ["alpha", "new"]


async def test_a_folder_that_vanishes_keeps_its_last_good_passages(table: KnowledgeTable, docs: Path) -> None:
    await sync(table, [docs])
    os.rename(docs, docs.with_name("elsewhere"))
    [problem] = (await sync(table, [docs])).problems
    assert problem.file == docs
    assert await texts(table) == ["alpha", "beta", "gamma"]


async def test_added_documents_stay_though_no_folder_has_them(
    table: KnowledgeTable, docs: Path, tmp_path: Path
) -> None:
    extra = tmp_path / "extra.md"
    extra.write_text("# X\nxi")
    await table.write(read_files([extra, docs / "a.md"], {}, added=True).documents)
    await sync(table, [docs])
    assert sorted(await texts(table)) == ["alpha", "beta", "gamma", "xi"]
    extra.unlink()
    await sync(table, [])
    assert sorted(await texts(table)) == ["alpha", "xi"]
    await table.write(gone=[document_id(extra)])
    assert await texts(table) == ["alpha"]


async def test_the_version_changes_with_files_and_table_only(
    table: KnowledgeTable, docs: Path, tmp_path: Path
) -> None:
    source = DocumentSource(table, [docs])
    entries, version = await source.load()
    assert len(entries) == 3
    assert await source.version() == version
    change(docs / "a.md", "# A\nnew")
    assert await source.version() != version
    _, version = await source.load()
    await table.write(gone=[document_id(docs / "b.md")])
    assert await source.version() != version


async def test_a_file_that_vanishes_under_the_look_is_no_error(
    table: KnowledgeTable, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DocumentSource(table, [docs])
    _, version = await source.load()
    monkeypatch.setattr("plugins.knowledge.sync.glance", vanish)
    assert await source.version() != version


PIECE = 10


@pytest.fixture
async def cut(table: KnowledgeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cut]:
    monkeypatch.setattr("plugins.knowledge.tables.PAGE", PIECE)
    store = Cut(f"sqlite+aiosqlite:///{tmp_path / 'kb.db'}")
    yield store
    await store.close()


@pytest.mark.parametrize("pieces", range(5))
@pytest.mark.parametrize("known", [False, True])
async def test_what_a_crash_leaves_of_a_long_document_is_written_anew(
    table: KnowledgeTable, docs: Path, cut: Cut, pieces: int, known: bool
) -> None:
    file = docs / "c.md"
    file.write_text(long_document("old", 2 * PIECE + 5) if known else "")
    await sync(table, [docs])
    old, new = await texts(table), [f"new {number}" for number in range(2 * PIECE + 3)]
    version, state, text = await table.version(), file.stat(), file.read_bytes()
    change(file, long_document("new", len(new)))
    cut.left = pieces
    with pytest.raises(StoreError):
        await sync(KnowledgeTable(cut), [docs])
    assert await table.version() == version  # nobody takes over half of it
    file.write_bytes(text)
    os.utime(file, ns=(state.st_mtime_ns, state.st_mtime_ns))
    await sync(table, [docs])
    assert await texts(table) == old
    change(file, long_document("new", len(new)))
    await sync(table, [docs])
    assert (await texts(table))[3:] == new
    assert await table.version() != version
    file.unlink()
    await sync(table, [docs])
    assert await texts(table) == old[:3]


def long_document(word: str, sections: int) -> str:
    return "# L\n" + "".join(f"## {number}\n{word} {number}\n" for number in range(sections))
