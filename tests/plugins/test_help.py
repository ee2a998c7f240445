"""/help and /start: what a user may use, in his language, and nothing else."""

from __future__ import annotations

import pytest

from bot import Plugin, cooldown, role
from bot.testing import BotTester
from plugins.chat.plugin import plugin as chat
from plugins.help.plugin import plugin as help_

shop = Plugin("shop")


@shop.command("repair", "报修", help="open a repair ticket", rules=[cooldown("1h")])
def repair() -> str:
    return "repaired"


@shop.command("takeover", help="answer in person", rules=[role("agents")])
def takeover() -> str:
    return "taken over"


@shop.command("secret")
def secret() -> str:
    return "found"


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    return bot_tester.use(help_).use(chat).use(shop)


async def test_help_lists_what_the_user_may_use(bot: BotTester) -> None:
    text = (await bot.private().say("/帮助")).text
    assert "/报修：open a repair ticket" in text
    assert "/清空：清除对话记录" in text
    assert "takeover" not in text
    assert "secret" not in text
    assert "@" not in text
    assert "人工客服" in text


async def test_help_shows_agents_their_commands(bot: BotTester) -> None:
    bot.configure(roles={"agents": ["test:u1"]})
    assert "/takeover" in (await bot.private("u1").say("/help")).text
    assert "/takeover" not in (await bot.private("u2").say("/help")).text


async def test_help_speaks_english_with_english_users(bot: BotTester) -> None:
    text = (await bot.configure(language="en").private().say("/help")).text
    assert "/repair: open a repair ticket" in text
    assert "/clear: forget our conversation" in text


async def test_asking_for_help_starts_no_cooldown_and_hides_nothing_that_has_one(bot: BotTester) -> None:
    user = bot.private()
    for _ in range(2):
        assert "/报修" in (await user.say("/帮助")).text
    assert (await user.say("/报修")).text == "repaired"
    assert "/报修" in (await user.say("/帮助")).text


async def test_in_a_group_it_says_how_to_be_heard(bot: BotTester) -> None:
    user = bot.group("g").user("u")
    assert "@ 我" in (await user.say("/帮助")).text
    assert "@ 我" in (await user.say("/start")).text
    assert "@ 我" not in (await bot.private().say("/start")).text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("你好", "智能客服"),
        ("您好！", "智能客服"),
        ("Hello there 👋", "support assistant"),
        ("谢谢啦", "不客气"),
        ("Thanks a lot!", "welcome"),
        ("你好，有人吗我要退货", "人工客服"),
        ("hi I want a refund", "support team"),
    ],
)
async def test_bare_greetings_and_thanks_are_answered_kindly(
    bot_tester: BotTester, text: str, answer: str
) -> None:
    assert answer in (await bot_tester.use(help_).private().say(text)).text


@pytest.mark.parametrize(
    ("text", "answer"), [("/hlep", "/help"), ("／hepl 我", "/help"), ("/weather", "/weather")]
)
async def test_an_unknown_command_is_told_the_nearest_one(
    bot_tester: BotTester, text: str, answer: str
) -> None:
    said = (await bot_tester.use(help_).private().say(text)).text
    assert answer in said
    assert "命令" in said or "command" in said


async def test_an_unknown_command_is_no_question_for_the_model(bot: BotTester) -> None:
    assert "/help" in (await bot.with_model(lambda question: ["hm"]).private().say("/hlep")).text


@pytest.mark.parametrize("text", ["/takeove", "/secre"])
async def test_what_help_does_not_list_is_not_named_as_the_nearest(bot: BotTester, text: str) -> None:
    said = (await bot.private().say(text)).text
    assert "takeover" not in said
    assert "secret" not in said


async def test_a_known_command_that_answers_nothing_is_not_called_unknown(bot_tester: BotTester) -> None:
    quiet = Plugin("quiet")

    @quiet.command("hush")
    def hush() -> None:
        return None

    said = (await bot_tester.use(help_).use(quiet).private().say("/hush now")).text
    assert "/hush" not in said


async def test_who_opens_a_talk_is_greeted(bot_tester: BotTester) -> None:
    said = await bot_tester.use(help_).private().do("entered")
    assert said.text.startswith("您好，我是智能客服")
