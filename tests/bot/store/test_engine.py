"""The store: grouped commits, units that fail alone, clear errors when nothing can be written."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event, func, select, text

from bot.errors import StoreError
from bot.message import Chat, Message, User
from bot.store import Step, Store
from bot.store.inbox import Inbox, InboxRow
from bot.store.migrations import upgrade


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite+aiosqlite:///{file}")
    await upgrade(store)
    store.start()
    yield store
    await store.close()


def message(delivery: str, user: str = "u") -> Message:
    return Message("test", "bot", delivery, Chat("c"), User(user), "hi", trace=uuid4().hex)


async def count(store: Store) -> int:
    rows = await store.read(select(func.count()).select_from(InboxRow))
    return int(rows[0][0])


async def test_overlapping_copies_of_a_delivery_are_accepted_once(store: Store) -> None:
    inbox = Inbox(store)
    ids = await asyncio.gather(*(inbox.accept([message("d1")]) for _ in range(20)))
    assert sum(inbox_id is not None for [inbox_id] in ids) == 1
    assert await count(store) == 1


async def test_a_delivery_twice_in_one_batch_is_accepted_once(store: Store) -> None:
    assert await Inbox(store).accept([message("a"), message("b"), message("a")]) == [1, 2, None]


async def test_many_writers_share_commits(store: Store, file: Path) -> None:
    inbox = Inbox(store)
    probe = sqlite3.connect(file)
    before = probe.execute("PRAGMA data_version").fetchone()[0]
    await asyncio.gather(*(inbox.accept([message(f"d{n}")]) for n in range(300)))
    commits = probe.execute("PRAGMA data_version").fetchone()[0] - before
    probe.close()
    assert await count(store) == 300
    assert commits < 30


async def test_a_bad_unit_fails_alone(store: Store) -> None:
    bad = Step(text("INSERT INTO no_such_table VALUES (:x)"), [{"x": 1}])
    inbox = Inbox(store)
    results = await asyncio.gather(
        inbox.accept([message("a")]), store.write(bad), inbox.accept([message("b")]), return_exceptions=True
    )
    assert [type(result) for result in results] == [list, StoreError, list]
    assert await count(store) == 2


async def test_a_value_that_cannot_be_bound_fails_alone(store: Store) -> None:
    inbox = Inbox(store)
    odd = Message("test", "bot", "\ud800", Chat("c"), User("u"), "hi", trace=uuid4().hex)
    results = await asyncio.gather(inbox.accept([odd]), inbox.accept([message("a")]), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, list]
    assert await inbox.accept([message("b")]) is not None


async def test_a_locked_database_is_a_store_error_and_records_nothing(file: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{file}", busy_timeout=0.05)
    await upgrade(store)
    store.start()
    blocker = sqlite3.connect(file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as caught:
        await Inbox(store).accept([message("a")])
    assert caught.value.transient
    with pytest.raises(StoreError, match="locked"):
        await store.probe()
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.probe()
    assert await Inbox(store).accept([message("a")]) == [1]
    await store.close()


async def test_a_full_disk_is_a_store_error_and_records_nothing(store: Store) -> None:
    @event.listens_for(store.engine.sync_engine, "begin")
    def no_room(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")

    big = Message("test", "bot", "big", Chat("c"), User("u"), "x" * 200_000, trace="t")
    with pytest.raises(StoreError, match="full"):
        await Inbox(store).accept([big])
    assert await count(store) == 0


async def test_errors_never_carry_what_users_wrote(store: Store) -> None:
    step = Step(text("INSERT INTO no_such_table VALUES (:x)"), [{"x": "私人内容"}])
    with pytest.raises(StoreError) as caught:
        await store.write(step)
    assert "私人内容" not in str(caught.value)


async def test_writes_handed_in_before_close_are_committed(file: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{file}")
    await upgrade(store)
    store.start()
    writes = [asyncio.create_task(Inbox(store).accept([message(f"d{n}")])) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert all(ids[0] is not None for ids in await asyncio.gather(*writes))
    with pytest.raises(StoreError, match="not open"):
        await Inbox(store).accept([message("late")])


async def test_a_database_in_memory_serves_readers_beside_writers() -> None:
    store = Store("sqlite+aiosqlite:///:memory:")
    await upgrade(store)
    store.start()
    inbox = Inbox(store)
    jobs = [inbox.accept([message(f"d{n}")]) for n in range(50)]
    await asyncio.gather(*jobs, *(count(store) for _ in range(50)))
    assert await count(store) == 50
    await store.close()


async def test_the_log_is_moved_beside_the_writer_and_stays_short(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.store.engine.CHECKPOINT_EVERY", 0.01)
    monkeypatch.setattr("bot.store.engine.LONG_LOG", 50)
    store = Store(f"sqlite+aiosqlite:///{file}")
    await upgrade(store)
    store.start()
    inbox, log = Inbox(store), file.with_name(f"{file.name}-wal")
    for n in range(100):
        await inbox.accept([message(f"d{n}", user="x" * 20_000)])
    async with asyncio.timeout(10):
        while log.stat().st_size > 60 * 4096:
            await inbox.accept([message(uuid4().hex)])
            await asyncio.sleep(0.02)
    assert await count(store) >= 100
    await store.close()
