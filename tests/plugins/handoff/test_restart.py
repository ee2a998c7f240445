"""Hand-overs outlive the process, and a message cut off by a crash is completed, not repeated."""

from __future__ import annotations

import asyncio
import pkgutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

import plugins
from bot import Memory
from bot.store import Base, Store
from bot.store.migrations import upgrade
from bot.testing import BotTester
from plugins.handoff import relay
from plugins.handoff.plugin import plugin
from plugins.handoff.tables import Handoff, Handoffs
from tests.plugins.handoff import desk as desk_module
from tests.plugins.handoff.desk import DeskConnector, echo, late


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


def build(tester: BotTester, file: Path, *, speaking: bool = True, **settings: object) -> BotTester:
    """A bot on a file, with or without something that answers everything."""
    bot = tester.use(plugin, **settings)
    return (bot.use(echo) if speaking else bot).configure(
        store={"url": f"sqlite+aiosqlite:///{file}"},
        staff_chats=["bot:s1", "bot:s2"],
        roles={"agents": ["bot:agent"]},
    )


@pytest.fixture
def bot(bot_tester: BotTester, file: Path) -> BotTester:
    return build(bot_tester, file)


async def crash(bot: BotTester, file: Path, *undone: str) -> None:
    """Stop the bot and make its database that of one killed before it answered the last message."""
    await bot.close()
    with closing(sqlite3.connect(file)) as database, database:
        [last] = database.execute("SELECT max(id) FROM inbox").fetchone()
        database.execute("UPDATE inbox SET done_at = NULL WHERE id = ?", [last])
        database.execute("DELETE FROM outbox WHERE inbox_id = ?", [last])
        for statement in undone:
            database.execute(statement)


async def restart(bot: BotTester) -> None:
    """Start again and wait until what was left is handled."""
    app = await bot.app()
    [last] = (await app.store.read(text("SELECT max(id) FROM inbox")))[0]
    assert (await app.dispatch.outcome(last, wait=10)).done


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query).fetchall()


def sent(file: Path, chat: str) -> list[str]:
    """What a chat was sent, answers and others, over all runs."""
    found = rows(
        file, f"SELECT json_extract(payload, '$.text') FROM outbox WHERE chat = '{chat}' ORDER BY id"
    )
    return [str(row[0]) for row in found]


async def test_a_restart_gives_no_talk_back(bot: BotTester, file: Path) -> None:
    await bot.private("u1").say("转人工")
    await bot.close()
    assert (await bot.private("u1").say("在吗")).text == ""
    assert sent(file, "s1")[-1] == "【#1】u1：在吗"
    assert "#1 已交还" in (await bot.private("agent").say("/release 1")).text
    await bot.close()
    assert (await bot.private("u1").say("在吗")).text == "bot: 在吗"


NOBODY_TOLD = "DELETE FROM outbox WHERE chat IN ('s1', 's2')"
ONE_TOLD = "DELETE FROM outbox WHERE chat = 's2'"
NO_ROW = "DELETE FROM handoff"


@pytest.mark.parametrize("undone", [(), (ONE_TOLD,), (NOBODY_TOLD,), (NOBODY_TOLD, NO_ROW)])
async def test_a_wish_cut_off_is_completed(bot: BotTester, file: Path, undone: tuple[str, ...]) -> None:
    await bot.private("u1").say("转人工")
    await crash(bot, file, *undone)
    await restart(bot)
    for chat in ("s1", "s2"):
        [said] = sent(file, chat)
        assert "/release" in said
    [answer] = sent(file, "u1")
    assert "正在为您转接" in answer
    assert rows(file, "SELECT count(*) FROM handoff") == [(1,)]
    assert (await bot.private("u1").say("在吗")).text == ""


@pytest.mark.parametrize("undone", [(), (NO_ROW,)])
async def test_a_wish_cut_off_at_a_desk_is_completed(
    bot: BotTester, file: Path, undone: tuple[str, ...]
) -> None:
    desk = bot.connector = DeskConnector()
    await bot.private("u1").say("转人工")
    await crash(bot, file, *undone)
    await restart(bot)
    assert desk.calls == [("over", "u1")] * 2  # a desk takes it twice
    [answer] = sent(file, "u1")
    assert "正在为您转接" in answer
    assert (await bot.private("u1").say("在吗")).text == ""


async def test_what_a_customer_says_is_passed_on_once(bot: BotTester, file: Path) -> None:
    await bot.private("u1").say("转人工")
    await bot.private("u1").say("在吗")
    await crash(bot, file)
    await restart(bot)
    assert [said for said in sent(file, "s1") if "在吗" in said] == ["【#1】u1：在吗"]
    assert len(sent(file, "u1")) == 1


@pytest.mark.parametrize("who", ["agent", "u1"])
async def test_a_way_back_cut_off_is_completed(bot: BotTester, file: Path, who: str) -> None:
    await bot.private("u1").say("转人工")
    await bot.private(who).say("/release 1" if who == "agent" else "/bot")
    before = {chat: sent(file, chat) for chat in ("u1", "s1", "s2", "agent")}
    await crash(bot, file)
    await restart(bot)
    assert {chat: sent(file, chat) for chat in before} == before
    assert (await bot.private("u1").say("在吗")).text == "bot: 在吗"


SAYS = "您好"
AGENT_ACTS = [f"/reply 1 {SAYS}", "/canned 1 hi", "/note 1 记一下", "/claim 1", "/close 1", SAYS]


@pytest.mark.parametrize("act", AGENT_ACTS)
async def test_what_an_agent_did_before_a_crash_is_done_once(
    bot_tester: BotTester, file: Path, act: str
) -> None:
    bot = build(bot_tester, file, canned={"hi": "您好！"})
    user, agent = bot.private("u1"), bot.private("agent")
    await user.say("转人工")
    if act == SAYS:
        await agent.say("/claim 1")
    await agent.say(act)
    chats = ("u1", "s1", "s2", "agent")
    before = {chat: sorted(sent(file, chat)) for chat in chats}
    acts = rows(file, "SELECT actor, action, subject FROM audit ORDER BY id")
    lines = rows(file, "SELECT kind, text FROM handoff_line ORDER BY id")
    counts = rows(file, "SELECT measure, label, count FROM tally ORDER BY measure, label")
    await crash(bot, file)
    await restart(bot)
    assert {chat: sorted(sent(file, chat)) for chat in chats} == before
    assert rows(file, "SELECT actor, action, subject FROM audit ORDER BY id") == acts
    assert rows(file, "SELECT kind, text FROM handoff_line ORDER BY id") == lines
    assert rows(file, "SELECT measure, label, count FROM tally ORDER BY measure, label") == counts


async def test_a_reply_that_a_crash_kept_from_being_sent_is_sent(bot: BotTester, file: Path) -> None:
    await bot.private("u1").say("转人工")
    await bot.private("agent").say(f"/reply 1 {SAYS}")
    await crash(bot, file, f"DELETE FROM outbox WHERE payload LIKE '%{SAYS}%'")
    await restart(bot)
    assert [text for text in sent(file, "u1") if SAYS in text] == [f"【人工客服】{SAYS}"]
    assert rows(file, "SELECT count(*) FROM audit WHERE action = 'handoff.reply'") == [(1,)]


@pytest.mark.parametrize("undone", [(), ("DELETE FROM outbox WHERE chat IN ('s1', 's2')",)])
async def test_a_talk_handed_over_for_misses_is_so_after_a_crash(
    bot_tester: BotTester, file: Path, undone: tuple[str, ...]
) -> None:
    bot = build(bot_tester, file, speaking=False)
    await bot.private("u1").say("甲")
    await bot.private("u1").say("乙")
    before = sent(file, "u1")
    await crash(bot, file, *undone)
    await restart(bot)
    assert sent(file, "u1") == before
    assert "交给人工客服" in before[-1]
    assert [len(sent(file, chat)) for chat in ("s1", "s2")] == [1, 1]
    assert rows(file, "SELECT label, count FROM tally WHERE measure = 'escalated'") == [("misses", 1)]


# -- the table ----------------------------------------------------------------------------------


@pytest.fixture
def handoff() -> Handoff:
    return Handoff("s", "test", "bot", "c", "u", "name", "zh", "?", False, "t1", 1.0, 1.0)


async def test_what_waited_for_its_line_is_passed_on_after_a_restart(
    bot: BotTester, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = bot.private("u1")
    for text_ in ("转人工", "一", "二", "三"):
        await user.say(text_)
    await crash(bot, file)
    monkeypatch.setattr(relay, "LINE_EVERY", 0.05)
    await restart(bot)
    await asyncio.sleep(0.3)
    assert sent(file, "s1")[1:] == ["【#1】u1：一", "【#1】u1：二\n三"]


async def test_a_line_told_before_a_crash_is_not_told_with_the_next(bot: BotTester, file: Path) -> None:
    user = bot.private("u1")
    for text_ in ("转人工", "一"):
        await user.say(text_)
    await crash(bot, file, "UPDATE handoff SET unsaid = '一'")
    await restart(bot)
    await user.say("二")
    assert sent(file, "s1")[1:] == ["【#1】u1：一"]
    await bot.private("agent").say("/release 1")
    assert sent(file, "s1")[1:] == ["【#1】u1：一", "【#1】u1：二"]


async def test_a_talk_handed_over_during_a_reload_stays_with_people(
    bot: BotTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("echo", "late"):
        (tmp_path / f"{name}.py").write_text(f"from tests.plugins.handoff.desk import {name}\n", "utf-8")
    others = {info.name for info in pkgutil.iter_modules(plugins.__path__)} - {"handoff"}
    off = {name: {"enabled": False} for name in others}
    bot.use(late).configure(plugin_folders=[str(tmp_path)], plugins={"handoff": {}, **off})
    app, user, said = await bot.app(), bot.private("u1"), []

    async def ask() -> None:
        said.append((await user.say("转人工")).text)  # the old plugins still answer

    monkeypatch.setattr(desk_module, "meanwhile", ask)
    await app.reload()
    assert "正在为您转接" in said[0]
    assert (await user.say("在吗")).text == ""


async def test_one_session_has_one_open_hand_over(file: Path, handoff: Handoff) -> None:
    store = Store(f"sqlite+aiosqlite:///{file}")
    assert plugin.tables is not None
    await upgrade(store, {"handoff": plugin.tables})
    store.start()
    other = Store(store.url)
    other.start()
    here, elsewhere = Handoffs(store, Memory()), Handoffs(other, Memory())
    first = await here.begin(handoff)
    assert (await elsewhere.begin(handoff)).number == first.number  # what another program opened meanwhile
    await here.close(first, by="x", trace="t2", now=2.0)
    again = await here.begin(handoff)
    assert again.number > first.number
    await here.change(first, unsaid="?")  # too late: it must not come back
    assert here.open == {"s": again}
    await here.close(first, by="x", trace="t3", now=3.0)
    assert here.open == {"s": again}
    await other.close()
    await store.close()


def differences(connection: Connection) -> list[object]:
    def own(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        return kind != "table" or str(name).startswith("handoff")

    context = MigrationContext.configure(connection, opts={"include_object": own})
    found = compare_metadata(context, Base.metadata)
    return [item for item in found if "modify_type" not in str(item)]


async def test_the_schema_is_the_declared_one(file: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{file}")
    assert plugin.tables is not None
    for _ in range(2):
        await upgrade(store, {"handoff": plugin.tables})
    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await store.close()


BEFORE = """
INSERT INTO handoff (session, connector, bot, chat, user, user_name, language, question, by_platform, trace,
                     asked_at, last_at, unsaid, heard, closed_at, closed_by, closed_trace)
VALUES (:session, 'test', 'bot', :session, :session, 'u', 'zh', '?', :desk, 't',
        1.0, 1.0, '', '', :closed, '', '')
"""


async def test_rows_of_before_keep_their_meaning(file: Path, tmp_path: Path) -> None:
    assert plugin.tables is not None
    first = tmp_path / "first"
    first.mkdir()
    (first / "0001_handoff.py").write_text((plugin.tables / "0001_handoff.py").read_text("utf-8"), "utf-8")
    store = Store(f"sqlite+aiosqlite:///{file}")
    await upgrade(store, {"handoff": first})
    with closing(sqlite3.connect(file)) as database, database:
        for session, desk, closed in (("waits", 0, None), ("desk", 1, None), ("done", 0, 5.0)):
            database.execute(BEFORE, {"session": session, "desk": desk, "closed": closed})
    await upgrade(store, {"handoff": plugin.tables})
    states = {"waits": "queued", "desk": "human", "done": "closed"}
    assert dict(rows(file, "SELECT session, state FROM handoff")) == states
    handoffs = Handoffs(store, Memory())
    await handoffs.load()
    assert {key: item.state for key, item in handoffs.open.items()} == {"waits": "queued", "desk": "human"}
    await store.close()
