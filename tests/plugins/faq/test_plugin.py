"""The FAQ in a running bot: answers, silence, "did you mean", and changes that arrive while it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bot.retrieval import Entry, Hit
from bot.testing import BotTester
from plugins.faq.plugin import NEAR_MISS, near_misses, plugin

FAQ = """
- {id: fee, question: 运费是多少？, similar: [邮费怎么算, 快递要多少钱], answer: 满 99 元包邮。}
- {id: refund, question: 退款多久到账？, similar: [退的钱什么时候回来], answer: 三天内原路退回。}
- {id: code, question: '12345', answer: 这是热线。}
"""


@pytest.fixture
def bot(bot_tester: BotTester, tmp_path: Path) -> BotTester:
    (tmp_path / "faq.yaml").write_text(FAQ, "utf-8")
    return bot_tester.use(plugin, files=[str(tmp_path / "faq.yaml")])


async def test_the_very_question_is_answered_in_any_spelling(bot: BotTester) -> None:
    for text in ("运费是多少？", "運費是多少", " 运费 是多少!! ", "😀 你好  请问运费是多少呢？谢谢"):
        said = await bot.private().say(text)
        assert said.text == "满 99 元包邮。"
        assert said.sources == ("fee",)
        assert [reply.feedback for reply in said.replies] == [True]


async def test_a_paraphrase_is_answered_and_a_stranger_is_not(bot_tester: BotTester, tmp_path: Path) -> None:
    (tmp_path / "faq.yaml").write_text(FAQ, "utf-8")
    user = bot_tester.use(plugin, files=[str(tmp_path / "faq.yaml")], threshold=0.4).private()
    assert (await user.say("请问邮费是怎么算的呀")).text == "满 99 元包邮。"
    for text in ("今天会下雨吗", "12346", "？？", "🙂"):
        assert (await user.say(text)).sources == ()


async def test_a_threshold_of_one_leaves_the_very_question_only(
    bot_tester: BotTester, tmp_path: Path
) -> None:
    (tmp_path / "faq.yaml").write_text(FAQ, "utf-8")
    user = bot_tester.use(plugin, files=[str(tmp_path / "faq.yaml")], threshold=1.0).private()
    assert (await user.say("运费是多少")).sources == ("fee",)
    assert (await user.say("邮费是怎么算的")).sources == ()


async def test_near_misses_are_offered_and_chosen_by_number(bot_tester: BotTester, tmp_path: Path) -> None:
    (tmp_path / "faq.yaml").write_text(FAQ, "utf-8")
    user = bot_tester.use(plugin, files=[str(tmp_path / "faq.yaml")], threshold=0.999).private()
    offered = await user.say("邮费是怎么算的")
    assert offered.choices[0] == "运费是多少？"
    assert "1. 运费是多少？" in offered.text
    assert (await user.say("1")).text == "满 99 元包邮。"
    assert (await user.say("1")).sources == ()  # the last answer offers nothing
    await user.say("邮费是怎么算的")
    assert (await user.say("9")).sources == ()
    await user.say("邮费是怎么算的")
    assert (await user.say(offered.choices[0])).text == "满 99 元包邮。"


def test_near_misses_are_plausible_and_below_the_threshold() -> None:
    def hit(name: str, confidence: float, score: float) -> Hit:
        return Hit(name, confidence, False, Entry(name, (name,), name), name, score)

    good, close, far = hit("good", 0.45, 0.6), hit("close", 0.1, 0.55), hit("far", 0.05, 0.3)
    assert near_misses([good, close, far], 0.5) == [good, close]
    assert near_misses([good], 0.4) == []
    assert near_misses([hit("weak", 0.5 * NEAR_MISS - 0.01, 0.6)], 0.5) == []
    assert near_misses([], 0.5) == []
    assert len(near_misses([good, *[close] * 9], 0.5)) == 3


async def test_in_groups_it_speaks_when_asked(bot: BotTester) -> None:
    user = bot.group("g").user("u")
    assert (await user.say("运费是多少")).text == ""
    assert (await user.say("@bot 运费是多少")).sources == ("fee",)


async def test_where_a_group_wants_it_near_certain_hits_are_answered_unasked(bot: BotTester) -> None:
    user = bot.configure(groups={"respond": "faq"}).group("g").user("u")
    assert (await user.say("运费是多少")).sources == ("fee",)
    for text in ("大家晚上好", "我觉得运费有点贵，你们说呢", "中午吃什么"):
        assert (await user.say(text)).text == ""


async def test_no_file_at_all_is_no_error(bot_tester: BotTester) -> None:
    said = await bot_tester.use(plugin, files=[]).private().say("运费是多少")
    assert said.text
    assert said.sources == ()


async def test_a_changed_file_is_taken_over_while_it_serves(
    bot: BotTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.upkeep.LOOK_EVERY", 0.001)
    user = bot.private()
    assert (await user.say("运费是多少")).text == "满 99 元包邮。"
    (tmp_path / "faq.yaml").write_text("- {question: 运费是多少？, answer: 全部包邮。}", "utf-8")
    async with asyncio.timeout(10):
        while (await user.say("运费是多少")).text != "全部包邮。":
            pass
