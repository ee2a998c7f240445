"""What plugins note about answers, committed with them, and what the history keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import select, text

from bot import Answered, Message, Plugin, Reply, Stream, to_me
from bot.store import Step, Tally
from bot.store.history import HistoryRow
from bot.store.tally import QUARTER
from bot.testing import BotTester


def shop() -> Plugin:
    plugin = Plugin("shop")

    @plugin.message(to_me)
    async def answer(message: Message) -> Reply | Stream | None:
        if message.text == "price":
            return Reply("12", "list", confidence=0.5)
        if message.text == "story":
            return Stream(words(), confidence=0.75, model="glm", prefix="care")
        if message.text == "crash":
            raise ValueError("broken")
        return None

    @plugin.command("hello")
    async def hello() -> str:
        return "hi"

    return plugin


async def words() -> AsyncIterator[str]:
    yield "once "
    yield "upon"


def counting(heard: list[Answered]) -> Plugin:
    plugin = Plugin("counting")

    @plugin.answered
    def note(answered: Answered) -> Sequence[Step]:
        heard.append(answered)
        return [Tally.add(answered.at, answered.chat, "answered", answered.plugin)]

    return plugin


async def test_every_answer_is_told_once_with_where_it_came_from(bot_tester: BotTester) -> None:
    heard = list[Answered]()
    bot_tester.use(shop()).use(counting(heard))
    chat = bot_tester.private()
    for said in ("price", "story", "what?", "/hello", "crash"):
        await chat.say(said)
    assert [(one.question, one.plugin, one.by) for one in heard] == [
        ("price", "shop", "message"),
        ("story", "shop", "message"),
        ("what?", "", ""),
        ("/hello", "shop", "command"),
        ("crash", "shop", "message"),
    ]
    assert [one.reply.miss for one in heard] == [False, False, True, False, True]
    assert [one.is_question for one in heard] == [True, True, True, False, True]
    assert (heard[0].reply.confidence, heard[0].reply.all_sources) == (0.5, ("list",))
    story = heard[1]
    assert (story.answer, story.reply.confidence, story.reply.model, story.reply.prefix) == (
        "once upon",
        0.75,
        "glm",
        "care",
    )
    assert story.seconds > 0
    counted = await Tally((await bot_tester.app()).store).sums("answered", 0, story.at + QUARTER)
    assert {one.label: one.count for one in counted} == {"shop": 4, "": 1}
    rows = await (await bot_tester.app()).store.read(
        select(HistoryRow.trace, HistoryRow.model, HistoryRow.prefix, HistoryRow.miss).order_by(HistoryRow.id)
    )
    assert [tuple(row) for row in rows[1:3]] == [
        (story.message.trace, "glm", "care", False),
        (heard[2].message.trace, "", "", True),
    ]


@pytest.mark.parametrize("broken", ["raises", "cannot be written"])
async def test_a_plugin_that_cannot_note_an_answer_does_not_take_it_away(
    bot_tester: BotTester, broken: str
) -> None:
    plugin = Plugin("broken")

    @plugin.answered
    def note(answered: Answered) -> list[Step]:
        if broken == "raises":
            raise ValueError("no")
        return [Step(text("INSERT INTO nowhere VALUES (:a)"), [{"a": 1}])]

    bot_tester.use(shop()).use(plugin)
    assert (await bot_tester.private().say("price")).text.startswith("12")


async def test_what_is_kept_is_not_what_is_sent(bot_tester: BotTester) -> None:
    plugin = Plugin("discreet")

    @plugin.kept
    def hide(args: str) -> str:
        return args.replace("12", "**").replace("price", "p****")

    heard = list[Answered]()
    bot_tester.use(shop()).use(plugin).use(counting(heard))
    assert (await bot_tester.private().say("price")).text.startswith("12")
    assert (heard[0].question, heard[0].answer) == ("p****", "**")
    [row] = await (await bot_tester.app()).store.read(select(HistoryRow.question, HistoryRow.answer))
    assert tuple(row) == ("p****", "**")
