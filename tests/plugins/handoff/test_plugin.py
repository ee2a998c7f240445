"""Hand-over in a running bot: who is told, who is silent, and how the talk comes back; also over crashes."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from bot import ConfigError, Message, Plugin, Segment
from bot.inject import Call
from bot.testing import BotTester, Person
from plugins.handoff import plugin as plugin_module
from plugins.handoff import relay, staff, switchboard, watch
from plugins.handoff.plugin import plugin
from plugins.help.plugin import plugin as help_
from tests.plugins.handoff.desk import PickyConnector, echo

STARTED, NOBODY, BACK = "正在为您转接", "没有同事能接手", "我回来了"
ROLES = {"agents": ["bot:agent"]}


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (plugin_module, relay, staff, switchboard, watch):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    """A bot whose staff work in two chats."""
    return bot_tester.use(plugin).use(echo).configure(staff_chats=["bot:s1", "bot:s2"], roles=ROLES)


def told(bot: BotTester, chat: str = "s1") -> list[str]:
    """What a chat was sent without asking."""
    sent = [part for part in bot.connector.sent if part.target.chat == chat]
    return [part.text for part in sent if part.inbox_id is None]


async def is_answered(user: Person) -> bool:
    return (await user.say("在吗")).text == "bot: 在吗"


# -- asking for a person ------------------------------------------------------------------------


async def test_every_staff_chat_is_told_and_the_bot_is_silent_from_then_on(bot: BotTester) -> None:
    user = bot.private("u1")
    assert await is_answered(user)
    assert STARTED in (await user.say("转人工")).text
    for chat in ("s1", "s2"):
        [text] = told(bot, chat)
        assert "#1" in text
        assert "u1（bot，u1）" in text
        assert "在吗\n转人工" in text
        assert "/release 1" in text
    assert (await user.say("我的订单丢了")).text == ""
    assert told(bot)[1:] == ["【#1】u1：我的订单丢了"]
    assert told(bot) == told(bot, "s2")


async def until(bot: BotTester, lines: int) -> list[str]:
    """What the staff chat was sent, once it is that much."""
    for _ in range(500):
        if len(told(bot)) >= lines:
            break
        await asyncio.sleep(0.01)
    return told(bot)


async def test_one_who_talks_much_leaves_room_for_others(
    bot: BotTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LINE_EVERY", 0.5)
    user, other = bot.private("u1"), bot.private("u2")
    await user.say("转人工")
    await other.say("转人工")
    for number in range(5):
        await user.say(f"喂{number}")
    await other.say("你好")
    assert told(bot)[2:] == ["【#1】u1：喂0", "【#2】u2：你好"]
    assert (await until(bot, 5))[4:] == ["【#1】u1：喂1\n喂2\n喂3\n喂4"]


async def test_staff_hear_what_was_said_before_the_talk_ends(bot: BotTester) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    for said in ("一", "二", "/bot", "转人工", "三", "四"):
        await user.say(said)
    await bot.private("agent").say("/release 2")
    lines = [line for line in told(bot) if "转人工" not in line]
    assert lines == ["【#1】u1：一", "【#1】u1：二", "#1 已交还给机器人。", "【#2】u1：三", "【#2】u1：四"]


async def test_who_asks_again_is_told_that_people_know(bot: BotTester) -> None:
    user = bot.private()
    await user.say("talk to an agent")
    assert "already knows" in (await user.say("TALK TO AN AGENT!")).text
    assert len(told(bot)) == 2


async def test_other_talks_go_on(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    assert await is_answered(bot.private("u2"))


async def test_media_are_mentioned_to_staff(bot: BotTester) -> None:
    user = bot.private()
    await user.say("转人工")
    await user.say("看", segments=(Segment("text", "看"), Segment("file", "发票.pdf"), Segment("image")))
    assert told(bot)[-1] == "【#1】u1：看\n[file] 发票.pdf\n[image]"


async def test_in_a_group_only_who_asked_is_left_to_people(bot: BotTester) -> None:
    group = bot.group("g")
    assert STARTED in (await group.user("u1").say("@bot 转人工")).text
    assert (await group.user("u1").say("@bot 在吗")).text == ""
    assert (await group.user("u1").say("大家好")).text == ""
    assert (await group.user("u2").say("@bot 在吗")).text == "bot: 在吗"
    assert told(bot)[1:] == ["【#1】u1：在吗"]
    assert await is_answered(bot.private("u1"))


async def test_in_a_group_nobody_is_called_unless_the_bot_is_asked(bot: BotTester) -> None:
    await bot.group("g").user("u1").say("转人工")
    assert told(bot) == []


async def test_a_staff_chat_that_does_not_exist_keeps_nobody_else_from_hearing(bot: BotTester) -> None:
    user = bot.configure(staff_chats=["gone:s1", "bot:s2"]).private()
    with capture_logs() as logs:
        assert STARTED in (await user.say("转人工")).text
    assert (await user.say("还在吗")).text == ""
    assert len(told(bot, "s2")) == 2
    assert "gone:s1" in [line.get("chat") for line in logs]


@pytest.mark.parametrize("chats", [[], ["gone:s1", "gone:s2"]])
async def test_where_nobody_can_be_told_the_bot_says_so_and_goes_on(bot: BotTester, chats: list[str]) -> None:
    user = bot.configure(staff_chats=chats, contact="总机 1234").private()
    for _ in range(2):
        said = (await user.say("转人工")).text
        assert NOBODY in said
        assert "总机 1234" in said
    assert await is_answered(user)


async def test_where_nobody_can_be_told_the_faq_may_know_better(bot: BotTester) -> None:
    faq = Plugin("faq")

    @faq.message(priority=20)
    def answer(message: Message) -> str | None:
        return "拨打 1234" if "人工" in message.text else None

    user = bot.use(faq).private()
    assert STARTED in (await user.say("转人工")).text
    await user.say("/bot")
    await bot.close()
    assert (await bot.configure(staff_chats=[]).private().say("转人工")).text == "拨打 1234"


async def test_further_words_can_be_configured(bot_tester: BotTester) -> None:
    user = bot_tester.use(plugin, words=["阿姨"]).configure(staff_chats=["bot:s1"]).private()
    assert STARTED in (await user.say("叫阿姨来")).text


# -- back to the bot ----------------------------------------------------------------------------


async def test_staff_give_a_talk_back_and_the_customer_hears_of_it(bot: BotTester) -> None:
    user, agent = bot.private("u1"), bot.group("s1").user("agent")
    await user.say("转人工")
    assert "#1 已交还" in (await agent.say("/release 1")).text
    assert told(bot, "u1") == ["人工服务已结束，您可以继续向我提问。"]
    assert await is_answered(user)
    assert "没有编号为 1" in (await agent.say("/转回 #1")).text
    assert STARTED in (await user.say("转人工")).text
    assert "#2 已交还" in (await agent.say("/转回 #2")).text


@pytest.mark.parametrize("number", ["", "7", "x", "-1", "1 2", "9" * 30, "9" * 5000])
async def test_what_is_no_open_hand_over_cannot_be_given_back(bot: BotTester, number: str) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    assert "/handoffs" in (await bot.private("agent").say(f"/release {number}")).text
    assert not await is_answered(user)


async def test_customers_can_neither_give_back_nor_list(bot: BotTester) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    for command in ("/release 1", "/handoffs"):
        assert "没有使用这个命令的权限" in (await bot.private("u2").say(command)).text
        assert (await user.say(command)).text == ""
    assert not await is_answered(user)


@pytest.mark.parametrize("command", ["/bot", "/机器人", "／BOT 谢谢"])
async def test_customers_go_back_to_the_bot_themselves(bot: BotTester, command: str) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    assert BACK in (await user.say(command)).text
    assert told(bot)[-1] == "#1 已交还给机器人。"
    assert await is_answered(user)


async def test_back_without_having_left_is_kind(bot: BotTester) -> None:
    assert BACK in (await bot.private().say("/bot")).text
    assert told(bot) == []


async def test_staff_who_ask_for_a_person_keep_their_commands(bot: BotTester) -> None:
    agent = bot.private("agent")
    await agent.say("转人工")
    assert (await agent.say("hm")).text == ""
    assert "#1 已交还" in (await agent.say("/release 1")).text
    assert await is_answered(agent)


async def test_the_list_shows_what_is_open(bot: BotTester, clock: Clock) -> None:
    agent = bot.private("agent")
    assert "没有人工处理中" in (await agent.say("/handoffs")).text
    await bot.private("u1").say("退款")
    await bot.private("u1").say("转人工，" + "快点" * 50)
    clock.now += 300
    await bot.private("u2").say("speak to a human")
    first, second = (await agent.say("/handoffs")).text.splitlines()
    assert first.startswith("#1 u1（bot），排队中，5 分钟前：退款 转人工，快点")
    assert first.endswith("…")
    assert len(first) < 70
    assert second == "#2 u2（bot），排队中，0 分钟前：speak to a human"


async def test_commands_are_listed_for_those_who_may_use_them(bot: BotTester) -> None:
    bot.use(help_)
    assert "/转回：把人工对话交还" in (await bot.private("agent").say("/帮助")).text
    shown = (await bot.private("u1").say("/帮助")).text
    assert "/机器人：" in shown
    assert "转回" not in shown


# -- time ---------------------------------------------------------------------------------------


async def test_a_talk_nobody_went_on_with_is_the_bots_again(bot: BotTester, clock: Clock) -> None:
    user = bot.private("u1")
    await user.say("转人工")
    clock.now += 23 * 3600
    assert (await user.say("在吗")).text == ""
    clock.now += 23 * 3600
    assert (await user.say("在吗")).text == ""
    clock.now += 25 * 3600
    assert await is_answered(user)
    assert told(bot)[-1] == "#1 已交还给机器人。"


@pytest.mark.parametrize(("setting", "hours"), [("30m", 1), ("2h", 3), (60, 1)])
async def test_how_long_people_have_can_be_set(
    bot_tester: BotTester, clock: Clock, setting: str | int, hours: int
) -> None:
    bot = bot_tester.use(plugin, release_after=setting).use(echo).configure(staff_chats=["bot:s1"])
    user = bot.private()
    await user.say("转人工")
    assert not await is_answered(user)
    clock.now += hours * 3600
    assert await is_answered(user)


async def test_it_may_stay_with_people_for_ever(bot_tester: BotTester, clock: Clock) -> None:
    bot = bot_tester.use(plugin, release_after=None).use(echo).configure(staff_chats=["bot:s1"])
    user = bot.private()
    await user.say("转人工")
    clock.now += 1e8
    assert not await is_answered(user)


@pytest.mark.parametrize("value", ["soon", 0, -1, "24"])
async def test_what_is_no_duration_is_refused(bot_tester: BotTester, value: object) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.handoff.*(duration|greater than 0)"):
        await bot_tester.use(plugin, release_after=value).private().say("x")


async def run_schedule(bot: BotTester) -> None:
    app = await bot.app()
    [plan] = [plan for plan in app.program.schedules if plan.handler.plugin == "handoff"]
    await plan.run(Call())


async def test_the_clock_gives_back_what_customers_left_and_forgets_what_is_old(
    bot: BotTester, clock: Clock
) -> None:
    await bot.private("u1").say("转人工")
    clock.now += 25 * 3600
    await bot.private("u2").say("转人工")
    await run_schedule(bot)
    agent = bot.private("agent")
    assert (await agent.say("/handoffs")).text.startswith("#2 ")
    assert told(bot)[-1] == "#1 已交还给机器人。"
    assert await numbers(bot) == [1, 2]
    clock.now += 91 * 86400
    await run_schedule(bot)
    assert await numbers(bot) == [2]  # closed only now
    clock.now += 91 * 86400
    await run_schedule(bot)
    assert await numbers(bot) == []


@pytest.mark.parametrize(("refused", "over"), [({"s1"}, False), ({"s1", "s2"}, True)])
async def test_whom_no_staff_chat_will_hear_of_is_told_so_in_the_end(
    bot: BotTester, refused: set[str], over: bool
) -> None:
    bot.connector = PickyConnector(refused)
    user, app = bot.configure(contact="总机 1234").private("u1"), await bot.app()
    assert STARTED in (await user.say("转人工")).text
    for _ in range(2):
        async with asyncio.timeout(5):
            while app.outbox.pending:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        await run_schedule(bot)
    assert ["总机 1234" in text for text in told(bot, "u1")] == ([True] if over else [])
    assert await is_answered(user) is over


async def numbers(bot: BotTester) -> list[int]:
    rows = await (await bot.app()).store.read(text("SELECT id FROM handoff ORDER BY id"))
    return [row[0] for row in rows]
