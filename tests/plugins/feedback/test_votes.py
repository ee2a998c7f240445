"""Votes in words, comments, and what is kept and counted of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from bot import Message, Plugin, Reply, to_me
from bot.store import Tally
from bot.testing import BotTester, Person
from plugins.feedback.plugin import plugin
from plugins.feedback.tables import FeedbackRow

shop = Plugin("shop")


@shop.message(to_me)
def answer(message: Message) -> Reply | None:
    if "退货" not in message.text:
        return None
    return Reply("七天内可以退货。", "returns", feedback=True, confidence=0.8, model="glm", prefix="care")


@pytest.fixture
def user(bot_tester: BotTester) -> Person:
    return bot_tester.configure(language="zh").use(plugin).use(shop).private()


async def rows(user: Person) -> list[Any]:
    app = await user.tester.app()
    return list(await app.store.read(select(FeedbackRow.__table__)))


async def counted(user: Person) -> dict[str, int]:
    sums = await Tally((await user.tester.app()).store).sums("vote", 0, 1e11)
    return {one.label: one.count for one in sums if one.count}


@pytest.mark.parametrize(
    ("said", "vote"), [("没用", -1), ("👍🏻", 1), ("有帮助！", 1), ("Not helpful.", -1), ("没有用。", -1)]
)
async def test_words_are_a_vote_on_the_answer_before(user: Person, said: str, vote: int) -> None:
    await user.say("怎么退货？")
    reply = (await user.say(said)).text
    assert reply == (
        "谢谢您的反馈！" if vote > 0 else "很抱歉没帮上忙。您可以补充几句再问一次，或者联系人工客服。"
    )
    [row] = await rows(user)
    assert (row.vote, row.question, row.answer) == (vote, "怎么退货？", "七天内可以退货。")
    assert (row.plugin, row.sources, row.confidence) == ("shop", "returns", 0.8)
    assert (row.model, row.prefix) == ("glm", "care")
    assert row.trace
    assert await counted(user) == {"up" if vote > 0 else "down": 1}


@pytest.mark.parametrize(
    "said", ["没用过这个功能", "这个有用吗", "不对称的", "helpful staff?", "有用户反馈吗"]
)
async def test_other_words_are_no_vote(user: Person, said: str) -> None:
    await user.say("怎么退货？")
    await user.say(said)
    assert await rows(user) == []


async def test_words_about_nothing_are_no_vote(user: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "答不上来" in (await user.say("没用")).text
    await user.say("怎么退货？")
    monkeypatch.setattr("plugins.feedback.plugin.time", lambda: 1e11)
    await user.say("没用")
    assert await rows(user) == []


async def test_who_changes_its_mind_counts_once(user: Person) -> None:
    await user.say("怎么退货？")
    for vote in ("up", "up", "down", "down"):
        await user.do("feedback", inbox_id=1, vote=vote)
    assert [row.vote for row in await rows(user)] == [-1]
    assert await counted(user) == {"down": 1}


async def test_a_comment_goes_with_the_vote(user: Person) -> None:
    assert "没有评价过" in (await user.say("/意见 很好")).text
    await user.say("怎么退货？")
    await user.say("没用")
    assert "写成" in (await user.say("/comment")).text
    assert (await user.say("/comment 没说运费，打 13812345678")).text == "谢谢您的反馈！"
    [row] = await rows(user)
    assert row.comment == "没说运费，打 138****5678"
    assert (await user.tester.private("u2").say("/comment 抢")).text != "谢谢您的反馈！"
