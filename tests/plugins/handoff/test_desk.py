"""Hand-over to a platform's own desk: it is asked first, its news are followed, it gets the talk back."""

from __future__ import annotations

import pytest

from bot.inject import Call
from bot.testing import BotTester
from plugins.handoff import plugin as plugin_module
from plugins.handoff import relay, staff, switchboard, watch
from plugins.handoff.plugin import plugin
from tests.plugins.handoff.desk import DeskConnector, echo

STARTED, NOBODY = "正在为您转接", "没有同事能接手"


@pytest.fixture
def desk(bot_tester: BotTester) -> DeskConnector:
    desk = DeskConnector()
    bot_tester.connector = desk
    return desk


@pytest.fixture
def bot(bot_tester: BotTester, desk: DeskConnector) -> BotTester:
    return bot_tester.use(plugin).use(echo).configure(staff_chats=["bot:s1"], roles={"agents": ["bot:agent"]})


def told(desk: DeskConnector) -> list[tuple[str, str]]:
    """(chat, text) of what was sent without asking."""
    return [(part.target.chat, part.text) for part in desk.sent if part.inbox_id is None]


async def test_the_desk_gets_the_talk_and_nobody_else_hears_of_it(
    bot: BotTester, desk: DeskConnector
) -> None:
    user = bot.private("u1")
    assert STARTED in (await user.say("转人工")).text
    assert desk.calls == [("over", "u1")]
    for text in ("我的订单丢了", "转人工", "/bot", "/help"):
        assert (await user.say(text)).text == ""
    assert desk.calls == [("over", "u1")]
    assert told(desk) == []
    assert (await bot.private("u2").say("在吗")).text == "bot: 在吗"


async def test_a_closed_desk_leaves_the_talk_to_the_staff_chats(bot: BotTester, desk: DeskConnector) -> None:
    desk.closed = True
    user = bot.private("u1")
    assert STARTED in (await user.say("转人工")).text
    assert [chat for chat, _ in told(desk)] == ["s1"]
    assert (await user.say("在吗")).text == ""
    assert told(desk)[-1] == ("s1", "【#1】u1：在吗")
    assert (await user.do("session", holder="bot")).text == ""  # news of a desk that does not have it
    assert (await user.say("在吗")).text == ""


async def test_a_closed_desk_and_no_staff_is_nobody(bot: BotTester, desk: DeskConnector) -> None:
    desk.closed = True
    user = bot.configure(staff_chats=[]).private()
    assert NOBODY in (await user.say("转人工")).text
    assert (await user.say("在吗")).text == "bot: 在吗"


@pytest.mark.parametrize("taken", ["waiting", "people"])
@pytest.mark.parametrize("ended", ["bot", "nobody"])
async def test_the_bot_follows_what_the_desk_does_by_itself(bot: BotTester, taken: str, ended: str) -> None:
    user = bot.private()
    for _ in range(2):
        assert (await user.do("session", holder=taken)).text == ""
    assert (await user.say("在吗")).text == ""
    for _ in range(2):
        assert (await user.do("session", holder=ended)).text == ""
    assert (await user.say("在吗")).text == "bot: 在吗"


@pytest.mark.parametrize("data", [{}, {"holder": None}, {"holder": "someone"}, {"holder": 3}])
async def test_a_holder_that_is_not_known_changes_nothing(bot: BotTester, data: dict[str, object]) -> None:
    user = bot.private()
    await user.do("session", **data)
    assert (await user.say("在吗")).text == "bot: 在吗"
    await user.say("转人工")
    await user.do("session", **data)
    assert (await user.say("在吗")).text == ""


async def test_staff_take_a_talk_back_from_the_desk(bot: BotTester, desk: DeskConnector) -> None:
    user, agent = bot.private("u1"), bot.private("agent")
    await user.say("转人工")
    assert (await agent.say("/handoffs")).text.startswith("#1 u1")
    assert "#1 已交还" in (await agent.say("/release 1")).text
    assert desk.calls == [("over", "u1"), ("back", "u1")]
    assert told(desk) == []
    assert (await user.say("在吗")).text == "bot: 在吗"


async def test_a_desk_that_keeps_a_talk_keeps_the_bot_silent(bot: BotTester, desk: DeskConnector) -> None:
    user, agent = bot.private("u1"), bot.private("agent")
    await user.say("转人工")
    desk.closed = True
    assert "已交还" not in (await agent.say("/release 1")).text
    assert (await user.say("在吗")).text == ""
    desk.closed = False
    assert "已交还" in (await agent.say("/release 1")).text


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (plugin_module, relay, staff, switchboard, watch):
        monkeypatch.setattr(module, "time", clock)
    return clock


async def test_a_talk_that_ran_out_without_a_word_is_the_bots_again(
    bot: BotTester, desk: DeskConnector, clock: Clock
) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    desk.talks.clear()
    clock.now += 61
    assert (await user.say("在吗")).text == "bot: 在吗"
    assert (await bot.private("agent").say("/handoffs")).text.startswith("目前没有")
    assert desk.calls == [("over", "u1")]


async def test_the_desk_is_asked_once_a_minute(bot: BotTester, desk: DeskConnector, clock: Clock) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    for _ in range(3):
        clock.now += 25
        assert (await user.say("在吗")).text == ""
    assert desk.asked == 1


async def test_a_desk_that_does_not_tell_has_the_talk(
    bot: BotTester, desk: DeskConnector, clock: Clock
) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    desk.talks.clear()
    desk.closed = True
    clock.now += 25 * 3600
    assert (await user.say("在吗")).text == ""
    desk.closed = False
    clock.now += 61
    assert (await user.say("在吗")).text == "bot: 在吗"


async def run_schedule(bot: BotTester) -> None:
    app = await bot.app()
    [plan] = [plan for plan in app.program.schedules if plan.handler.plugin == "handoff"]
    await plan.run(Call())


async def test_time_ends_no_talk_that_people_have_at_the_desk(
    bot: BotTester, desk: DeskConnector, clock: Clock
) -> None:
    user, agent = bot.private("u1"), bot.private("agent")
    await user.say("转人工")
    clock.now += 25 * 3600
    await run_schedule(bot)
    assert (await user.say("在吗")).text == ""
    desk.talks.clear()
    clock.now += 25 * 3600
    await run_schedule(bot)
    assert (await agent.say("/handoffs")).text.startswith("目前没有")
    assert desk.calls == [("over", "u1")]


async def test_what_a_desk_never_gives_back_is_struck_off(bot: BotTester, desk: DeskConnector) -> None:
    user, agent = bot.private("u1"), bot.private("agent")
    await user.say("转人工")
    desk.gone = True
    assert "#1 已从列表中移除" in (await agent.say("/release 1")).text
    assert (await user.say("在吗")).text == "bot: 在吗"


async def test_one_desk_that_is_away_delays_no_other_talk(
    bot: BotTester, desk: DeskConnector, clock: Clock
) -> None:
    await bot.private("u1").say("转人工")
    desk.closed = True
    await bot.private("u2").say("转人工")
    clock.now += 25 * 3600
    await run_schedule(bot)
    assert (await bot.private("agent").say("/handoffs")).text.startswith("#1 ")
    assert told(desk)[-1] == ("s1", "#2 已交还给机器人。")
