"""`glmbot user` and `glmbot db`: erasing one user, upgrades and backups of the database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import Result

from bot.answered import Answered
from bot.errors import StoreError
from bot.message import Chat, Message, User
from bot.reply import Outgoing, Reply, Target
from bot.session import Strategy, session_key
from bot.store import History, Store
from bot.store.backup import backup
from bot.store.erase import Person, erase
from bot.store.inbox import Inbox
from bot.store.migrations import upgrade
from bot.store.outbox import OutboxTable

Glmbot = Callable[..., Result]
SECRET = "my-very-own-diagnosis"


def message(connector: str, bot: str, user: str, delivery: str, group: bool = False) -> Message:
    chat = Chat("g1", group=True) if group else Chat(user)
    return Message(
        connector=connector,
        bot=bot,
        delivery=delivery,
        chat=chat,
        user=User(user),
        text=SECRET,
        trace=delivery,
    )


async def talk(store: Store, said: Message, strategy: Strategy = "user-in-chat") -> None:
    """One answered message: rows in inbox, outbox and history."""
    [number] = await Inbox(store).accept([said])
    assert number is not None
    target = Target(said.connector, said.bot, said.chat.id, user=said.user.id)
    part = Outgoing(id=0, inbox_id=number, key=f"k-{said.delivery}", target=target, text=SECRET)
    key = session_key(said, strategy)
    answered = Answered(key, said, number, said.text, SECRET, Reply(SECRET), "faq", "message", 0, 0)
    await store.write(OutboxTable.add([part]), History.add(answered), Inbox.done(number))


def rows(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(connector, user) of every row."""
    with closing(sqlite3.connect(folder / "glmbot.db")) as database:
        return {
            table: sorted(database.execute(f'SELECT connector, "user" FROM {table}'))
            for table in ("inbox", "outbox", "history")
        }


@pytest.fixture
def talks(tmp_path: Path) -> None:
    """Talks of several users over several connectors; two of them have the same id."""

    async def fill() -> None:
        store = Store(f"sqlite+aiosqlite:///{tmp_path / 'glmbot.db'}")
        await upgrade(store)
        store.start()
        await talk(store, message("webhook", "shop", "7", "d1"))
        await talk(store, message("webhook", "shop", "7", "d2", group=True), "chat")
        await talk(store, message("webhook", "shop", "8", "d3", group=True), "chat")
        await talk(store, message("webhook", "desk", "7", "d4"))
        await talk(store, message("telegram", "main", "7", "d5"))
        await store.close()

    asyncio.run(fill())


@pytest.fixture
def configured(glmbot: Glmbot, tmp_path: Path) -> Glmbot:
    """`glmbot` with two webhooks, `shop` and `desk`; `main` is a connector of the past."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    (tmp_path / "config.yaml").write_text(
        "plugins: {faq: {enabled: false}, knowledge: {enabled: false}}\n"
        "connectors:\n"
        f"  - {{type: webhook, name: shop, secret: {secret}}}\n"
        f"  - {{type: webhook, name: desk, secret: {secret}}}\n",
        "utf-8",
    )
    return glmbot


# -- user erase -------------------------------------------------------------------------------


def test_erase_removes_one_user_of_one_connector_and_says_from_where(
    configured: Glmbot, talks: None, tmp_path: Path
) -> None:
    result = configured("user", "erase", "shop:7", "--yes")
    assert result.exit_code == 0, result.output
    counts = dict(line.split() for line in result.stdout.splitlines()[2:5])
    assert counts == {"inbox": "2", "outbox": "2", "history": "2"}
    assert "removed 6 rows about shop:7" in result.stdout
    left = [("telegram", "7"), ("webhook", "7"), ("webhook", "8")]
    assert rows(tmp_path) == {"inbox": left, "outbox": left, "history": left}


def test_erase_takes_a_type_for_all_its_connectors(configured: Glmbot, talks: None, tmp_path: Path) -> None:
    assert configured("user", "erase", "webhook:7", "--yes").exit_code == 0
    assert rows(tmp_path)["history"] == [("telegram", "7"), ("webhook", "8")]


def test_erase_finds_what_a_connector_of_the_past_left(
    configured: Glmbot, talks: None, tmp_path: Path
) -> None:
    assert configured("user", "erase", "main:7", "--yes").exit_code == 0
    assert all(("telegram", "7") not in table for table in rows(tmp_path).values())


def test_erase_asks_first_and_takes_no_for_an_answer(configured: Glmbot, talks: None, tmp_path: Path) -> None:
    before = rows(tmp_path)
    result = configured("user", "erase", "shop:7", input="n\n")
    assert result.exit_code == 1
    assert "Remove these 6 rows for good?" in result.stdout
    assert rows(tmp_path) == before
    assert configured("user", "erase", "shop:7", input="y\n").exit_code == 0
    assert rows(tmp_path) != before


def test_erase_leaves_nothing_in_the_file(configured: Glmbot, talks: None, tmp_path: Path) -> None:
    for who in ("webhook:7", "webhook:8", "telegram:7"):
        assert SECRET.encode() in b"".join(file.read_bytes() for file in tmp_path.glob("glmbot.db*"))
        assert configured("user", "erase", who, "--yes").exit_code == 0
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.glob("glmbot.db*"))


def test_erase_reaches_tables_of_plugins_that_are_not_loaded(
    configured: Glmbot, talks: None, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "glmbot.db")) as database:
        database.execute('CREATE TABLE tickets (id INTEGER, connector TEXT, bot TEXT, "user" TEXT)')
        database.execute("CREATE TABLE rooms (id INTEGER, room TEXT)")
        wanted = [(1, "webhook", "shop", "7"), (2, "webhook", "desk", "7")]
        database.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?)", wanted)
        database.execute("INSERT INTO rooms VALUES (1, '7')")
        database.commit()
        result = configured("user", "erase", "shop:7", "--yes")
        assert "tickets" in result.stdout
        assert "removed 7 rows" in result.stdout
        assert database.execute("SELECT id FROM tickets").fetchall() == [(2,)]
        assert database.execute("SELECT id FROM rooms").fetchall() == [(1,)]


def test_erase_of_somebody_unknown_says_so(configured: Glmbot, talks: None, tmp_path: Path) -> None:
    before = rows(tmp_path)
    result = configured("user", "erase", "shop:70", "--yes")
    assert result.exit_code == 0
    assert result.stdout == "nothing is stored about shop:70 (connectors: shop, desk)\n"
    assert rows(tmp_path) == before


@pytest.mark.parametrize("who", ["7", ":7", "shop:", ""])
def test_erase_refuses_what_names_nobody(configured: Glmbot, talks: None, who: str) -> None:
    result = configured("user", "erase", who, "--yes")
    assert result.exit_code == 2
    assert "main:12345" in result.stderr


def test_erase_without_a_database_makes_none(configured: Glmbot, tmp_path: Path) -> None:
    result = configured("user", "erase", "shop:7", "--yes")
    assert result.exit_code == 1
    assert "there is no database" in result.stderr
    assert not (tmp_path / "glmbot.db").exists()


async def test_a_user_id_is_no_pattern(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'glmbot.db'}")
    await upgrade(store)
    store.start()
    await talk(store, message("webhook", "shop", "7", "d1"))
    for odd in ("%", "_", "7%", "' OR 1=1 --"):
        assert await erase(store, Person(odd, "shop", "webhook")) == {}
    await store.close()


# -- db ---------------------------------------------------------------------------------------


def test_upgrade_creates_the_tables_of_core_and_plugins_once(glmbot: Glmbot, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("plugins: {knowledge: {folders: []}}\n", "utf-8")
    result = glmbot("db", "upgrade")
    assert result.exit_code == 0, result.output
    owners = [line.split()[0] for line in result.stdout.splitlines()[2:]]
    assert owners == ["core", "digest", "faq", "feedback", "handoff", "knowledge", "moderation"]
    assert glmbot("db", "upgrade").stdout == "the database is up to date\n"


def test_backup_is_named_by_the_time_or_as_told(glmbot: Glmbot, talks: None, tmp_path: Path) -> None:
    assert glmbot("db", "backup").exit_code == 0
    [beside] = tmp_path.glob("glmbot-*-*.db")
    assert count(beside) == 5
    (tmp_path / "backups").mkdir()
    assert glmbot("db", "backup", "backups").exit_code == 0
    assert len(list((tmp_path / "backups").glob("glmbot-*.db"))) == 1
    assert glmbot("db", "backup", "backups/mine.db").stdout.startswith("backups/mine.db (")
    assert not list(tmp_path.rglob("*.tmp"))


def test_backup_replaces_only_when_told_and_never_the_database(
    glmbot: Glmbot, talks: None, tmp_path: Path
) -> None:
    (tmp_path / "copy.db").write_text("precious", "utf-8")
    refused = glmbot("db", "backup", "copy.db")
    assert refused.exit_code == 2
    assert "add --force" in refused.stderr
    assert (tmp_path / "copy.db").read_text("utf-8") == "precious"
    assert glmbot("db", "backup", "copy.db", "--force").exit_code == 0
    assert count(tmp_path / "copy.db") == 5
    (tmp_path / "alias.db").symlink_to("glmbot.db")
    for itself in ("glmbot.db", "alias.db"):
        assert glmbot("db", "backup", itself, "--force").exit_code == 2
    assert count(tmp_path / "glmbot.db") == 5


def test_backup_is_as_private_as_the_database(glmbot: Glmbot, talks: None, tmp_path: Path) -> None:
    (tmp_path / "glmbot.db").chmod(0o600)
    assert glmbot("db", "backup", "copy.db").exit_code == 0
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_backup_needs_a_folder_and_a_file(glmbot: Glmbot, talks: None, tmp_path: Path) -> None:
    result = glmbot("db", "backup", "nowhere/copy.db")
    assert result.exit_code == 2
    assert "there is no folder nowhere" in result.stderr
    (tmp_path / "config.yaml").write_text("store: {url: 'sqlite+aiosqlite:///:memory:'}\n", "utf-8")
    result = glmbot("db", "backup", "copy.db")
    assert result.exit_code == 1
    assert "no file" in result.stderr


async def test_a_backup_made_while_rows_are_written_is_consistent(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"
    writer, reader = Store(url), Store(url)
    await upgrade(writer)
    writer.start()
    written = 0
    some, stop = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await talk(writer, message("webhook", "shop", "7", f"d{written}"))
            written += 1
            if written == 20:
                some.set()

    writing = asyncio.create_task(write())
    await some.wait()
    before = written
    size = await backup(reader, tmp_path / "copy.db")
    stop.set()
    await writing
    await writer.close()
    await reader.close()
    assert size == (tmp_path / "copy.db").stat().st_size
    with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert before <= count(tmp_path / "copy.db", "history") <= count(tmp_path / "copy.db") <= written + 1


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}")
    await upgrade(store)
    await store.close()
    (tmp_path / "bot.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(StoreError, match="the backup failed"):
        await backup(store, tmp_path / "copy.db")
    await store.close()
    assert not [name for name in os.listdir(tmp_path) if "copy" in name]


def count(file: Path, table: str = "inbox") -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize("name", ["my_bot", "MY-BOT", "my%"])
async def test_erase_leaves_bots_with_a_similar_name_alone(tmp_path: Path, name: str) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}")
    await upgrade(store)
    store.start()
    await talk(store, message("webhook", "my-bot", "7", "d1"))
    assert await erase(store, Person("7", name, "webhook")) == {}
    assert (await erase(store, Person("7", "my-bot", "webhook")))["history"] == 1
    await store.close()
