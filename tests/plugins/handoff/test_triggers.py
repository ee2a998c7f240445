"""A talk goes to people although nobody asked: misses, doubt, a thumb down, anger, a plugin's word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import Message, Plugin, Reply, Stream, to_me
from bot.store import Tally
from bot.testing import BotTester, Person
from plugins.handoff import watch
from plugins.handoff.plugin import plugin
from plugins.handoff.triggers import LASTS, Streak

HANDED, OFFER, UNKNOWN = "交给人工客服", "需要人工客服吗", "答不上来"


def shop() -> Plugin:
    shop = Plugin("shop")

    @shop.message(to_me)
    async def answer(message: Message) -> Reply | Stream | None:
        if "退" in message.text:
            return Reply("七天内", source="returns", confidence=0.9)
        if "运费" in message.text:
            return Reply("大概十元", source="fees", confidence=0.3)
        if "故事" in message.text:
            return Stream(tale(), sources=("tales",), confidence=0.2)
        if "换货" in message.text:
            return Reply("请稍等", hand_over="exchange")
        return None

    return shop


async def tale() -> AsyncIterator[str]:
    yield "从前"


def build(tester: BotTester, **settings: object) -> BotTester:
    roles = {"agents": ["bot:anna"], "admins": []}
    return tester.use(plugin, **settings).use(shop()).configure(staff_chats=["bot:s1"], roles=roles)


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    return build(bot_tester)


async def escalated(bot: BotTester) -> dict[str, int]:
    return {
        item.label: item.count for item in await Tally((await bot.app()).store).sums("escalated", 0, 1e10)
    }


async def last(user: Person) -> int:
    app = await user.tester.app()
    return (await app.dispatch.talk(user.message(""), 1))[0].inbox_id


async def is_with_people(user: Person) -> bool:
    return (await user.say("能退吗")).text == ""


async def test_two_misses_in_a_row_bring_a_person_and_say_so(bot: BotTester) -> None:
    user = bot.private()
    assert UNKNOWN in (await user.say("甲")).text
    said = (await user.say("乙")).text
    assert HANDED in said
    assert "/bot" in said
    assert UNKNOWN not in said
    assert await is_with_people(user)
    assert await escalated(bot) == {"misses": 1}


async def test_an_answer_between_two_misses_ends_the_row(bot: BotTester) -> None:
    user = bot.private()
    for text in ("甲", "能退吗", "乙"):
        said = (await user.say(text)).text
    assert UNKNOWN in said
    assert await escalated(bot) == {}


async def test_commands_and_other_customers_do_not_count(bot: BotTester) -> None:
    await bot.private("u1").say("甲")
    assert UNKNOWN in (await bot.private("u2").say("甲")).text
    await bot.private("u1").say("/bot")
    assert HANDED in (await bot.private("u1").say("乙")).text


async def test_a_restart_forgets_no_miss(bot: BotTester, tmp_path: Path) -> None:
    bot.configure(store={"url": f"sqlite+aiosqlite:///{tmp_path}/bot.db"})
    await bot.private().say("甲")
    await bot.close()
    assert HANDED in (await bot.private().say("乙")).text


async def test_a_miss_of_long_ago_does_not_count(bot: BotTester, monkeypatch: pytest.MonkeyPatch) -> None:
    user = bot.private()
    now = 1e9
    monkeypatch.setattr(watch, "time", lambda: now)
    await user.say("甲")
    now += LASTS + 1
    assert UNKNOWN in (await user.say("乙")).text
    now += LASTS - 1
    assert HANDED in (await user.say("丙")).text


async def test_two_unsure_answers_bring_an_offer_that_is_counted_by_its_reason(bot: BotTester) -> None:
    user = bot.private()
    assert (await user.say("运费多少")).text == "大概十元"
    said = await user.say("运费谁出")
    assert said.text.startswith("大概十元\n\n")
    assert OFFER in said.text
    assert said.choices == ("转人工",)
    assert await escalated(bot) == {}
    assert "正在为您转接" in (await user.say(said.choices[0])).text
    assert await escalated(bot) == {"unsure": 1}


async def test_an_offer_that_is_not_taken_is_forgotten(bot: BotTester) -> None:
    user = bot.private()
    for text in ("运费多少", "运费谁出", "能退吗", "转人工"):
        await user.say(text)
    assert await escalated(bot) == {"asked": 1}


async def test_a_stream_is_followed_by_what_is_to_be_said(bot_tester: BotTester) -> None:
    user = build(bot_tester, automatic={"unsure": "hand_over"}).private()
    await user.say("讲故事")
    assert (await user.say("讲故事")).text.startswith("从前\n\n很抱歉")
    assert await is_with_people(user)


async def test_a_thumb_down_brings_an_offer_once(bot: BotTester) -> None:
    user = bot.private()
    await user.say("能退吗")
    voted = await last(user)
    said = await user.do("feedback", inbox_id=voted, vote="down")
    assert OFFER in said.text
    assert (await user.do("feedback", inbox_id=voted, vote="down")).text == ""
    await user.say("转人工")
    assert await escalated(bot) == {"vote": 1}


async def test_a_thumb_down_may_bring_a_person_at_once(bot_tester: BotTester) -> None:
    bot = build(bot_tester, automatic="hand_over")
    user = bot.private()
    await user.say("能退吗")
    said = await user.do("feedback", inbox_id=await last(user), vote=-1)
    assert HANDED in said.text
    assert await is_with_people(user)
    sources = await Tally((await bot.app()).store).sums("escalated_source", 0, 1e10)
    assert [item.label for item in sources] == ["returns"]


@pytest.mark.parametrize("data", [{"vote": 1}, {"vote": "down", "inbox_id": 999}, {}])
async def test_other_thumbs_bring_nothing(bot: BotTester, data: dict[str, object]) -> None:
    user = bot.private()
    await user.say("能退吗")
    assert (await user.do("feedback", **{"inbox_id": await last(user), **data})).text == ""


async def test_anger_brings_a_person_and_the_answer_too(bot: BotTester) -> None:
    user = bot.private()
    said = (await user.say("什么破客服！到底能不能退")).text
    assert said.startswith("七天内\n\n")
    assert HANDED in said
    assert await escalated(bot) == {"tone": 1}


async def test_a_plugin_may_ask_for_people(bot: BotTester) -> None:
    user = bot.private()
    said = (await user.say("换货")).text
    assert said.startswith("请稍等\n\n")
    assert HANDED in said
    assert await escalated(bot) == {"plugin": 1}
    assert await is_with_people(user)


@pytest.mark.parametrize("off", ["off", False])
async def test_all_of_it_can_be_off(bot_tester: BotTester, off: str | bool) -> None:
    user = build(bot_tester, automatic=off).private()
    for text in ("甲", "乙", "你们的服务太差了", "运费", "运费"):
        said = (await user.say(text)).text
        assert HANDED not in said
        assert OFFER not in said
    assert (await user.do("feedback", inbox_id=await last(user), vote="down")).text == ""


async def test_where_there_is_nobody_no_answer_is_touched(bot: BotTester) -> None:
    user = bot.configure(staff_chats=[]).private()
    for _ in range(3):
        assert UNKNOWN in (await user.say("甲")).text
    assert (await user.say("换货")).text == "请稍等"


async def test_agents_who_try_the_bot_are_not_customers(bot: BotTester) -> None:
    for _ in range(3):
        assert UNKNOWN in (await bot.private("anna").say("甲")).text


ANSWERS = st.sampled_from([(True, None), (False, None), (False, 0.2), (False, 0.9)])


@given(st.lists(ANSWERS, max_size=12))
def test_a_streak_is_the_length_of_its_row(answers: list[tuple[bool, float | None]]) -> None:
    streak = Streak()
    for number, (miss, confidence) in enumerate(answers):
        streak = streak.after(miss=miss, confidence=confidence, low=0.5, at=float(number))
    kinds = ["m" if miss else "u" if confidence == 0.2 else "." for miss, confidence in answers]
    row = "".join(kinds).rpartition(".")[2]
    assert streak.unsure == len(row)
    assert streak.misses == len(row) - len(row.rstrip("m"))
