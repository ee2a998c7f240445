"""Words, blocks and mutes through the whole bot, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select

from bot import DataError, Message, Plugin, Reply, Stream, to_me
from bot.store import Audit, Tally
from bot.store.history import HistoryRow
from bot.testing import BotTester
from plugins.moderation.files import read_words
from plugins.moderation.plugin import plugin
from plugins.moderation.words import Word

WORDS = "# 词表\n敏感词\n坏话\tmask\nbad\tmask\n"


def shop(heard: list[str]) -> Plugin:
    made = Plugin("shop")

    @made.message(to_me)
    async def answer(message: Message) -> Reply | Stream:
        heard.append(message.text)
        if message.text == "story":
            return Stream(pieces())
        return Reply(f"答：{message.text} 和敏感词", choices=("坏话?",))

    return made


async def pieces() -> AsyncIterator[str]:
    for piece in ("从前有个", "敏", " 感", "词，还有 b", "ad apples"):
        yield piece


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def bot(bot_tester: BotTester, heard: list[str], tmp_path: Path) -> BotTester:
    file = tmp_path / "words.txt"
    file.write_text(WORDS, "utf-8")
    bot_tester.configure(language="zh", roles={"admins": ["bot:boss"], "agents": ["bot:agent"]})
    return bot_tester.use(plugin, files=[str(file)]).use(shop(heard))


async def counted(bot: BotTester) -> dict[str, int]:
    sums = await Tally((await bot.app()).store).sums("moderated", 0, 1e11)
    return {one.label: one.count for one in sums}


async def test_what_must_not_come_in_is_refused_and_seen_by_nobody(bot: BotTester, heard: list[str]) -> None:
    said = await bot.private().say("这里有敏 感 词")
    assert "不能处理" in said.text
    assert heard == []
    assert await counted(bot) == {"word": 1}


async def test_a_milder_word_is_hidden_from_handlers(bot: BotTester, heard: list[str]) -> None:
    await bot.private().say("说坏话")
    assert heard == ["说**"]


async def test_answers_and_their_choices_are_hidden(bot: BotTester) -> None:
    said = await bot.private().say("你好")
    assert said.text == "答：你好 和***"
    assert said.choices == ("**?",)
    assert await counted(bot) == {"out_word": 1}


async def test_an_answer_that_grows_never_shows_a_word(bot: BotTester) -> None:
    said = await bot.private().say("story")
    assert said.text == "从前有个****，还有 *** apples"
    assert all("敏" not in shown and "感" not in shown for shown in bot.connector.shown)


async def test_staff_may_say_what_customers_may_not(bot: BotTester, heard: list[str]) -> None:
    await bot.private("agent").say("敏感词")
    assert heard == ["敏感词"]


async def test_who_goes_on_is_muted_for_a_while(bot: BotTester, heard: list[str]) -> None:
    user = bot.private("rude")
    for _ in range(2):
        assert "换个说法" in (await user.say("敏感词")).text
    assert "30 分钟" in (await user.say("敏感词")).text
    assert (await user.say("你好")).text == ""
    assert (await bot.private("other").say("你好")).text
    assert "rude" in (await bot.private("boss").say("/blocks")).text
    assert heard == ["你好"]


async def test_admins_block_and_unblock_by_identity_and_that_is_audited(
    bot: BotTester, heard: list[str]
) -> None:
    boss, user = bot.private("boss"), bot.private("u1")
    assert "没有使用这个命令的权限" in (await bot.private("agent").say("/block bot:u1")).text
    assert (await boss.say("/block bot:u1 2h")).text == "已拉黑 bot:u1。"
    assert (await user.say("你好")).text == ""
    assert "bot:u1，还有 120 分钟" in (await boss.say("/黑名单")).text
    assert (await boss.say("/unblock bot:u1")).text == "已解除 bot:u1。"
    assert "没有被拉黑" in (await boss.say("/unblock bot:u1")).text
    assert (await user.say("你好")).text
    assert "请写成" in (await boss.say("/block u1")).text
    assert "请写成" in (await boss.say("/block bot:u1 soon")).text
    trail = await Audit((await bot.app()).store).latest()
    assert [(one.actor, one.action, one.subject) for one in trail] == [
        ("bot:boss", "unblock", "bot:u1"),
        ("bot:boss", "block", "bot:u1"),
    ]


async def test_a_name_gives_no_rights(bot: BotTester) -> None:
    said = await bot.private("u9").say("/block bot:u1", user=_named("u9", "boss"))
    assert "没有使用这个命令的权限" in said.text


async def test_blocks_outlive_a_restart_and_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"
    for round_ in range(2):
        tester = BotTester().use(plugin, blocked=["bot:never"]).use(shop([]))
        tester.configure(roles={"admins": ["bot:boss"]}, store={"url": url})
        tester.deliveries = count(100 * round_)
        if not round_:
            await tester.private("boss").say("/block bot:u1 1h")
        assert (await tester.private("u1").say("你好")).text == ""
        assert (await tester.private("never").say("你好")).text == ""
        if round_:
            monkeypatch.setattr("plugins.moderation.tables.time", lambda: 1e11)
            assert (await tester.private("u1").say("你好")).text
        await tester.close()


async def test_the_history_keeps_no_personal_data(bot: BotTester) -> None:
    said = await bot.private().say("我的电话13812345678")
    assert "13812345678" in said.text
    [row] = await (await bot.app()).store.read(select(HistoryRow.question, HistoryRow.answer))
    assert row.question == "我的电话138****5678"
    assert "13812345678" not in row.answer


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("好\tburn\n".encode(), r"words.txt: row 1: 'burn' is nothing that can be done; write block or mask"),
        (b"ok\n" + "长".encode() * 65, r"words.txt: row 2: the word has 65 characters"),
        (b"\xff\xfe\x00", r"words.txt: is not UTF-8; save it as UTF-8"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_words([file], "block")


def test_lists_add_up_and_the_first_one_decides(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("甲\n乙\tmask\n", "utf-8")
    second.write_text("\ufeff乙\tblock\n\n丙", "utf-8")
    assert read_words([first, second], "block") == [
        Word("甲", "block"),
        Word("乙", "mask"),
        Word("丙", "block"),
    ]


def _named(user: str, name: str):  # type: ignore[no-untyped-def]
    from bot import User

    return User(user, name=name)
