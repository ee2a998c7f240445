"""Staff at work: claiming, answering, notes, prepared answers, the end; customers never hear who it is."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest

from bot import Plugin, Reply, Segment, User, to_me
from bot.message import Message
from bot.store import Audit, Tally
from bot.testing import BotTester, Person
from plugins.handoff.plugin import plugin
from tests.plugins.handoff.desk import echo

ROLES = {"agents": ["bot:ann", "bot:bob"], "admins": ["bot:boss"]}
CANNED = {"hello": "您好，我来帮您。"}


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    bot_tester.use(plugin, canned=CANNED).use(echo)
    return bot_tester.configure(language="zh", staff_chats=["bot:s1"], roles=ROLES)


def told(bot: BotTester, chat: str) -> list[str]:
    """What a chat was sent without asking."""
    return [part.text for part in bot.connector.sent if part.target.chat == chat and part.inbox_id is None]


def group(bot: BotTester, user: str) -> Person:
    return bot.group("s1").user(user)


async def test_who_claims_a_talk_sees_what_was_said_and_gets_what_follows(bot: BotTester) -> None:
    customer, ann = bot.private("u1"), bot.private("ann")
    await customer.say("订单丢了")
    await customer.say("转人工")
    said = (await ann.say("/claim 1")).text
    assert "❓ 订单丢了" in said
    assert "🤖 bot: 订单丢了" in said
    await customer.say("在吗")
    await customer.say("快点")
    assert told(bot, "ann") == ["【#1】u1：在吗", "【#1】u1：快点"]
    assert told(bot, "s1")[1:] == []
    assert "已由 bot:ann 接手" in (await bot.private("bob").say("/claim 1")).text
    assert "— bot:ann" in (await bot.private("boss").say("/handoffs")).text


async def test_in_private_the_agent_just_answers(bot: BotTester) -> None:
    customer, ann = bot.private("u1"), bot.private("ann")
    await customer.say("转人工")
    assert (await ann.say("有什么可以帮您")).text == "bot: 有什么可以帮您"  # nothing is claimed yet
    await ann.say("/claim #1")
    assert (await ann.say("有什么可以帮您")).text == "✓ 已发给 #1"
    assert told(bot, "u1") == ["【人工客服】有什么可以帮您"]
    assert "暂时转不给" in (await ann.say("", segments=(Segment("image", "p"),))).text


async def test_in_a_group_the_number_says_whom_it_is_for(bot: BotTester) -> None:
    for user in ("u1", "u2"):
        await bot.private(user).say("转人工")
    assert (await group(bot, "ann").say("@bot #2 您好")).text == "✓ 已发给 #2"
    assert (await group(bot, "ann").say("/reply 1 您也好\n两行")).text == "✓ 已发给 #1"
    assert told(bot, "u1") == ["【人工客服】您也好\n两行"]
    assert told(bot, "u2") == ["【人工客服】您好"]
    await bot.private("u1").say("谢谢")
    assert told(bot, "s1")[-1] == "【#1】u1：谢谢"
    assert "已由 bot:ann" in (await group(bot, "bob").say("@bot #1 我来")).text
    assert "#编号" in (await _with_two(bot)).text


async def _with_two(bot: BotTester):  # type: ignore[no-untyped-def]
    bob = bot.private("bob")
    for user in ("u3", "u4"):
        await bot.private(user).say("转人工")
    await bob.say("/claim 3")
    await bob.say("/claim 4")
    return await bob.say("给谁")


async def test_in_the_customers_group_it_is_named(bot: BotTester) -> None:
    await bot.group("g").user("lin").say("@bot 转人工")
    await bot.private("ann").say("/reply 1 请看私信")
    assert told(bot, "g") == ["@lin 【人工客服】请看私信"]


async def test_notes_and_prepared_answers(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    ann = bot.private("ann")
    assert "客户看不到" in (await ann.say("/note 1 老客户，电话核实过")).text
    assert (await ann.say("/canned 1 hello")).text == "✓ 已发给 #1"
    assert "hello: 您好，我来帮您。" in (await ann.say("/canned 1 none")).text
    assert "📝 老客户，电话核实过" in (await bot.private("boss").say("/show 1")).text
    assert told(bot, "u1") == ["【人工客服】您好，我来帮您。"]


async def test_the_end_is_told_counted_and_recorded(bot: BotTester) -> None:
    customer, ann = bot.private("u1"), bot.private("ann")
    await customer.say("转人工")
    await ann.say("/claim 1")
    await ann.say("好了")
    assert (await ann.say("/close 1")).text == "#1 已交还给机器人。"
    assert "本次人工服务已结束" in told(bot, "u1")[-1]
    assert (await customer.say("在吗")).text == "bot: 在吗"
    store = (await bot.app()).store
    for measure, label in (("escalated", "asked"), ("taken", ""), ("closed", "agent")):
        assert [(one.label, one.count) for one in await Tally(store).sums(measure, 0, 1e11)] == [(label, 1)]
    trail = [(one.actor, one.action, one.subject) for one in reversed(await Audit(store).latest())]
    assert trail == [("bot:ann", "claim", "1"), ("bot:ann", "reply", "1"), ("bot:ann", "closed", "1")]


@pytest.mark.parametrize("command", ["claim 1", "reply 1 x", "note 1 x", "show 1", "close 1", "canned 1 a"])
async def test_customers_have_no_say_whatever_they_are_called(bot: BotTester, command: str) -> None:
    customer = bot.private("u1")
    await customer.say("转人工")
    other = bot.private("u2")
    assert "没有使用这个命令的权限" in (await other.say(f"/{command}", user=User("u2", name="ann"))).text
    assert (await other.say("#1 你好")).text == "bot: #1 你好"
    assert told(bot, "u1") == []


# -- the bot calls people by itself -------------------------------------------------------------


def unsure() -> Plugin:
    made = Plugin("unsure")

    @made.message(to_me)
    def answer(message: Message) -> Reply | None:
        if "吗" in message.text:
            return Reply("大概是", confidence=0.3)
        if "给人" in message.text:
            return Reply("这个我来转", hand_over="broken machine")
        return Reply("是的", confidence=0.9) if "好" in message.text else None

    return made


@pytest.fixture
def shop(bot_tester: BotTester) -> BotTester:
    bot_tester.use(plugin).use(unsure())
    return bot_tester.configure(language="zh", staff_chats=["bot:s1"], roles=ROLES)


async def reasons(bot: BotTester) -> dict[str, int]:
    sums = await Tally((await bot.app()).store).sums("escalated", 0, 1e11)
    return {one.label: one.count for one in sums}


async def test_two_misses_in_a_row_call_people_and_one_does_not(shop: BotTester) -> None:
    customer = shop.private("u1")
    assert "转接" not in (await customer.say("甲")).text
    await customer.say("你好")
    assert "转接" not in (await customer.say("乙")).text
    said = (await customer.say("丙")).text
    assert "答不上来" in said
    assert "正在为您转接" in said
    assert await reasons(shop) == {"misses": 1}
    assert "连续答不上来" in told(shop, "s1")[0]
    assert (await customer.say("丁")).text == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [(["能退吗", "真的吗"], "unsure"), (["什么垃圾服务！好"], "tone"), (["转给人吧，坏了"], "plugin")],
)
async def test_what_else_calls_people(shop: BotTester, said: list[str], reason: str) -> None:
    customer = shop.private("u1")
    answers = [(await customer.say(text)).text for text in said]
    assert ["正在为您转接" in answer for answer in answers] == [False] * (len(said) - 1) + [True]
    assert await reasons(shop) == {reason: 1}


async def test_a_thumb_down_calls_people(shop: BotTester) -> None:
    customer = shop.private("u1")
    await customer.say("你好")
    assert (await customer.do("feedback", inbox_id=1, vote="up")).text == ""
    assert "正在为您转接" in (await customer.do("feedback", inbox_id=1, vote="down")).text
    assert await reasons(shop) == {"vote": 1}
    assert (await shop.private("u2").do("feedback", inbox_id=1, vote="down")).text == ""


async def test_it_may_only_be_offered_or_off(bot_tester: BotTester) -> None:
    for mode, told_ in (("offer", True), ("off", False)):
        tester = BotTester().use(plugin, automatic={"mode": mode, "misses": 1}).use(unsure())
        tester.configure(language="zh", staff_chats=["bot:s1"])
        assert ("请发送“转人工”" in (await tester.private().say("甲")).text) is told_
        assert told(tester, "s1") == []
        await tester.close()


async def test_signs_outlive_a_restart(tmp_path: Path) -> None:
    deliveries = count(1)
    for said, handed in (("甲", False), ("乙", True)):
        tester = BotTester().use(plugin).use(unsure())
        tester.configure(
            language="zh", staff_chats=["bot:s1"], store={"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"}
        )
        tester.deliveries = deliveries
        assert ("正在为您转接" in (await tester.private().say(said)).text) is handed
        await tester.close()


# -- many at once -------------------------------------------------------------------------------


async def test_a_hundred_talks_at_once_are_neither_lost_nor_crossed(tmp_path: Path) -> None:
    """Four agents, each in private with the bot, a restart in the middle, both sides talking all the time."""
    agents = [f"agent{number}" for number in range(4)]
    customers = [f"u{number}" for number in range(100)]
    deliveries, sent = count(1), dict[str, list[str]]()

    def start() -> BotTester:
        tester = BotTester().use(plugin, automatic={"mode": "off"}).use(echo)
        tester.deliveries = deliveries
        return tester.configure(
            language="zh",
            staff_chats=["bot:s1"],
            roles={"agents": [f"bot:{agent}" for agent in agents]},
            store={"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"},
        )

    async def talk(tester: BotTester, number: int, rounds: range) -> None:
        agent, customer = tester.private(agents[number % 4]), tester.private(customers[number])
        for round_ in rounds:
            await customer.say(f"客户{number}说{round_}")
            await agent.say(f"/reply {numbers[number]} 回复{number}的{round_}")

    first = start()
    await asyncio.gather(*(first.private(customer).say("转人工") for customer in customers))
    listed = (await first.private("agent0").say("/handoffs")).text
    numbers = {
        int(line.split("u")[1].split("（")[0]): int(line[1:].split(" ")[0]) for line in listed.splitlines()
    }
    assert sorted(numbers) == list(range(100))
    await asyncio.gather(*(first.private(agents[n % 4]).say(f"/claim {numbers[n]}") for n in range(100)))
    await asyncio.gather(*(talk(first, number, range(3)) for number in range(100)))
    await first.close()
    second = start()
    await asyncio.gather(*(talk(second, number, range(3, 6)) for number in range(100)))
    for tester in (first, second):
        for part in tester.connector.sent:
            if part.inbox_id is None:
                sent.setdefault(part.target.chat, []).append(part.text)
    for number, customer in enumerate(customers):
        assert sent[customer] == [f"【人工客服】回复{number}的{round_}" for round_ in range(6)]
        line = f"【#{numbers[number]}】{customer}：客户{number}说"
        mine = [text for text in sent[agents[number % 4]] if text.startswith(f"【#{numbers[number]}】")]
        assert mine == [f"{line}{round_}" for round_ in range(6)]
    assert sum(len(sent[agent]) for agent in agents) == 600
    await second.close()
