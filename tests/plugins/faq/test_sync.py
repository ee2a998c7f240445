"""The FAQ's tables: files and imports side by side, changes taken over whole whatever interrupts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from bot import DataError, FileState, glance
from bot.errors import StoreError
from bot.store import Store
from bot.store.migrations import upgrade
from plugins.faq.files import read_file
from plugins.faq.importing import Imported, import_records
from plugins.faq.plugin import plugin
from plugins.faq.sync import FaqSource, sync
from plugins.faq.tables import PAGE, FaqEntryRow, FaqTable
from tests.plugins.cut_store import Cut


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[FaqTable]:
    assert plugin.tables is not None
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'faq.db'}")
    await upgrade(store, {plugin.name: plugin.tables})
    yield FaqTable(store)
    await store.close()


def faq(file: Path, **answers: str) -> Path:
    """A file with these questions; its time differs from that of any earlier version."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text("".join(f"- {{question: {q}, answer: {a}}}\n" for q, a in answers.items()), "utf-8")
    os.utime(file, ns=(before + 10**9, before + 10**9))
    return file


def vanish(file: Path) -> FileState:
    """What a look finds when the file is replaced at that moment."""
    file.unlink()
    return glance(file)


async def answers(table: FaqTable, *files: Path) -> dict[str, str]:
    """What stands in the table after a sync without problems."""
    synced = await sync(table, files)
    assert synced.problems == []
    kept = [entry for group in (await table.by_origin()).values() for entry in group]
    assert sorted(entry.id for entry in kept) == sorted(entry.id for entry in synced.entries)
    return {entry.texts[0]: entry.answer for entry in synced.entries}


async def test_the_table_follows_the_files(table: FaqTable, tmp_path: Path) -> None:
    one, two = faq(tmp_path / "1.yaml", a="1", b="2"), faq(tmp_path / "2.yaml", c="3")
    assert await answers(table, one, two) == {"a": "1", "b": "2", "c": "3"}
    faq(one, a="changed")
    assert await answers(table, one, two) == {"a": "changed", "c": "3"}
    assert await answers(table, two) == {"c": "3"}
    assert await answers(table) == {}


async def test_a_question_may_move_from_file_to_file(table: FaqTable, tmp_path: Path) -> None:
    one, two = faq(tmp_path / "1.yaml", a="1", b="2"), faq(tmp_path / "2.yaml", c="3")
    await answers(table, one, two)
    faq(one, c="3"), faq(two, a="1", b="2")
    assert await answers(table, one, two) == {"a": "1", "b": "2", "c": "3"}


async def test_a_file_that_breaks_keeps_its_last_good_entries(table: FaqTable, tmp_path: Path) -> None:
    one, two = faq(tmp_path / "1.yaml", a="1"), faq(tmp_path / "2.yaml", b="2")
    await answers(table, one, two)
    faq(one, a=""), faq(two, b="new")
    synced = await sync(table, [one, two])
    assert {entry.texts[0]: entry.answer for entry in synced.entries} == {"a": "1", "b": "new"}
    assert [(problem.file, problem.row) for problem in synced.problems] == [(one, 1)]
    one.unlink()
    assert {entry.texts[0] for entry in (await sync(table, [one, two])).entries} == {"a", "b"}


async def test_a_question_in_two_files_is_refused_with_both_places(table: FaqTable, tmp_path: Path) -> None:
    one, two = faq(tmp_path / "1.yaml", a="1"), faq(tmp_path / "2.yaml", b="2", A="3")
    synced = await sync(table, [one, two])
    [problem] = synced.problems
    assert (problem.file, problem.row) == (two, 2)
    assert "1.yaml, row 1" in str(problem)
    assert [entry.answer for entry in synced.entries] == ["1"]
    faq(one, z="1")
    assert await answers(table, one, two) == {"z": "1", "b": "2", "A": "3"}


async def test_without_commit_the_table_stays(table: FaqTable, tmp_path: Path) -> None:
    one = faq(tmp_path / "1.yaml", a="1")
    assert len((await sync(table, [one], commit=False)).entries) == 1
    assert await table.by_origin() == {}
    assert await table.files() == {}


async def test_an_unchanged_file_is_not_read_again(table: FaqTable, tmp_path: Path) -> None:
    one = faq(tmp_path / "1.yaml", a="1")
    await answers(table, one)
    version = await table.version()
    os.utime(one, ns=(1, 1))
    assert await answers(table, one) == {"a": "1"}
    state = one.stat()
    one.write_bytes(b"\xff" * state.st_size)
    os.utime(one, ns=(1, 1))  # neither size nor time tell: nobody looks inside
    assert await answers(table, one) == {"a": "1"}
    assert await table.version() == version


async def test_imported_entries_stay_whatever_the_files_say(table: FaqTable, tmp_path: Path) -> None:
    one, csv = faq(tmp_path / "1.yaml", a="1"), tmp_path / "in.csv"
    await answers(table, one)
    csv.write_text("question,answer,id\nb,2,b\nc,3,c\n")
    records = [(csv, record) for record in read_file(csv)]
    assert await import_records(table, records) == Imported(2, 0, 0, 0, 2)
    assert await answers(table, one) == {"a": "1", "b": "2", "c": "3"}
    csv.write_text("question,answer,id\nb,changed,b\nd,4,d\n")
    records = [(csv, record) for record in read_file(csv)]
    assert await import_records(table, records) == Imported(1, 1, 0, 0, 3)
    assert await import_records(table, records, replace=True) == Imported(0, 0, 2, 1, 2)
    assert await answers(table) == {"b": "changed", "d": "4"}


async def test_an_import_that_repeats_a_files_question_changes_nothing(
    table: FaqTable, tmp_path: Path
) -> None:
    one, csv = faq(tmp_path / "1.yaml", a="1"), tmp_path / "in.csv"
    await answers(table, one)
    csv.write_text("question,answer\nb,2\nA?,3\n")
    records = [(csv, record) for record in read_file(csv)]
    with pytest.raises(DataError, match=r"1\.yaml") as caught:
        await import_records(table, records)
    assert (caught.value.file, caught.value.row) == (csv, 3)
    assert await answers(table, one) == {"a": "1"}


async def test_more_entries_than_a_page_stay_in_order(table: FaqTable, tmp_path: Path) -> None:
    many = {f"q{number}": str(number) for number in range(PAGE + 5)}
    one, two = faq(tmp_path / "1.yaml", **many), faq(tmp_path / "2.yaml", last="x")
    assert list(await answers(table, one, two)) == [*many, "last"]
    stored = await table.by_origin()
    assert [entry.answer for entry in stored[str(one)]] == list(many.values())


async def test_the_version_changes_with_files_and_table_only(table: FaqTable, tmp_path: Path) -> None:
    one, csv = faq(tmp_path / "1.yaml", a="1"), tmp_path / "in.csv"
    source = FaqSource(table, [one])
    entries, version = await source.load()
    assert [entry.answer for entry in entries] == ["1"]
    assert await source.version() == version
    faq(one, a="2")
    assert await source.version() != version
    _, version = await source.load()
    csv.write_text("question,answer\nb,2\n")
    await import_records(table, [(csv, record) for record in read_file(csv)])
    assert await source.version() != version


async def test_nothing_but_trouble_is_an_error(table: FaqTable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answer is empty"):
        await FaqSource(table, [faq(tmp_path / "1.yaml", a="")]).load()


async def test_a_file_that_vanishes_under_the_look_is_no_error(
    table: FaqTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FaqSource(table, [faq(tmp_path / "1.yaml", a="1")])
    _, version = await source.load()
    monkeypatch.setattr("plugins.faq.sync.glance", vanish)
    assert await source.version() != version


PIECE = 10


@pytest.fixture
async def cut(table: FaqTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cut]:
    monkeypatch.setattr("plugins.faq.tables.PAGE", PIECE)
    store = Cut(f"sqlite+aiosqlite:///{tmp_path / 'faq.db'}")
    yield store
    await store.close()


@pytest.mark.parametrize("pieces", range(6))
async def test_what_a_crash_leaves_in_pieces_is_written_anew(
    table: FaqTable, tmp_path: Path, cut: Cut, pieces: int
) -> None:
    before = {f"q{number}": "1" for number in range(3 * PIECE)}
    after = {f"q{number}": "2" for number in range(PIECE // 2, 3 * PIECE)}
    one = faq(tmp_path / "1.yaml", **before)
    await answers(table, one)
    version, state, text = await table.version(), one.stat(), one.read_bytes()
    faq(one, **after)
    cut.left = pieces
    with pytest.raises(StoreError):
        await sync(FaqTable(cut), [one])
    assert await table.version() == version  # nobody takes over half of it
    one.write_bytes(text)
    os.utime(one, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert await answers(table, one) == before
    faq(one, **after)
    assert await answers(table, one) == after
    assert await table.version() != version


async def test_only_what_differs_is_written_and_messages_are_taken_in_between(
    table: FaqTable, tmp_path: Path, cut: Cut
) -> None:
    many = {f"q{number}": "1" for number in range(5 * PIECE)}
    one = faq(tmp_path / "1.yaml", **many)
    start = cut.left
    await sync(FaqTable(cut), [one])
    assert start - cut.left >= 5
    stamps = await changes(cut)
    faq(one, **many | {"q7": "2"})
    assert await answers(FaqTable(cut), one) == many | {"q7": "2"}
    assert len((await changes(cut)).items() - stamps.items()) == 1


async def changes(store: Store) -> dict[str, float]:
    """When each row was written."""
    rows = await store.read(select(FaqEntryRow.id, FaqEntryRow.changed_at))
    return {row.id: row.changed_at for row in rows}
