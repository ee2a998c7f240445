"""Blocks outlive the process; word files are read again on a reload, and broken ones change nothing."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from bot import ConfigError
from bot.app import App
from bot.config import LoadedConfig, load_config
from bot.store import Base, Store
from bot.store.erase import Person, erase
from bot.store.migrations import upgrade
from bot.testing import BotTester, FakeConnector
from plugins.moderation.plugin import plugin
from plugins.moderation.tables import Block, Blocks


def configured(folder: Path, words: str) -> LoadedConfig:
    (folder / "words.txt").write_text(words, encoding="utf-8")
    off = "".join(f"  {name}: {{enabled: false}}\n" for name in ("faq", "knowledge"))
    text = f"language: zh\nplugins:\n  moderation: {{files: [words.txt]}}\n{off}"
    (folder / "config.yaml").write_text(f"{text}connectors: []\n", encoding="utf-8")
    return load_config(folder / "config.yaml", {})


async def test_blocks_outlive_the_process(bot_tester: BotTester, tmp_path: Path) -> None:
    store = {"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"}
    bot = bot_tester.use(plugin).configure(store=store, roles={"admins": ["bot:boss"]})
    for command in ("/block mei 60", "/block li", "/block bo", "/unblock bo"):
        await bot.private("boss").say(command)
    await bot.close()
    assert [bool((await bot.private(name).say("hi")).text) for name in ("mei", "li", "bo")] == [
        False,
        False,
        True,
    ]


async def test_what_is_over_goes_and_a_user_can_be_erased(bot_tester: BotTester, tmp_path: Path) -> None:
    file = tmp_path / "bot.db"
    app = await bot_tester.use(plugin).configure(store={"url": f"sqlite+aiosqlite:///{file}"}).app()
    now, blocks = time.time(), Blocks(app.store)
    for user, until in (("over", now - 1), ("still", now + 60), ("always", None), ("gone", None)):
        await blocks.put(Block("bot", user, "test", until, "bot:boss", now))
    await blocks.forget(now)
    assert await erase(app.store, Person("gone", "bot", "test")) == {"moderation_block": 1}
    with closing(sqlite3.connect(file)) as database:
        left = database.execute("SELECT user FROM moderation_block ORDER BY user").fetchall()
    assert left == [("always",), ("still",)]


def differences(connection: Connection) -> list[object]:
    def own(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        return kind != "table" or str(name).startswith("moderation")

    context = MigrationContext.configure(connection, opts={"include_object": own})
    found = compare_metadata(context, Base.metadata)
    return [item for item in found if "modify_type" not in str(item)]


async def test_the_schema_is_the_declared_one(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}")
    assert plugin.tables is not None
    for _ in range(2):
        await upgrade(store, {"moderation": plugin.tables})
    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await store.close()


async def test_a_broken_file_stops_the_start_and_is_named(tmp_path: Path) -> None:
    app = App(configured(tmp_path, "好\n坏\tdrop\n"), connectors=[FakeConnector()], serve=False)
    with pytest.raises(ConfigError) as caught:
        await app.start()
    assert str(caught.value).startswith(f"{tmp_path / 'words.txt'}:2: 'drop' is no action")


async def test_a_reload_takes_new_words_and_keeps_the_old_where_files_are_broken(tmp_path: Path) -> None:
    tester = BotTester()
    app = App(configured(tmp_path, "敏感词\n"), connectors=[tester.connector], serve=False)
    tester._app = app
    await app.start()
    try:
        mei = tester.private("mei")
        refused = (await mei.say("敏感词")).text
        assert "不合适" in refused
        (tmp_path / "words.txt").write_text("违禁词\n", encoding="utf-8")
        await app.reload()
        assert (await mei.say("违禁词")).text == refused
        assert (await mei.say("敏感词")).text != refused
        (tmp_path / "words.txt").write_text("好\n坏\tdrop\n", encoding="utf-8")
        with structlog.testing.capture_logs() as logs:
            await app.reload()
        assert [line["event"] for line in logs if line["event"] == "plugins reloaded"]
        assert [(line["event"], line["problem"]) for line in logs if line["log_level"] == "error"] == [
            (
                "the sensitive words stay as they were",
                f"{tmp_path / 'words.txt'}:2: 'drop' is no action; "
                "after the first tab write block, mask or pinyin, and a category after the second",
            )
        ]
        assert (await mei.say("违禁词")).text == refused
    finally:
        await tester.close()
