"""Agents take talks, answer through the bot, note, close; customers learn nothing of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from bot import ConfigError, DataError, Message, Plugin, Reply, Segment
from bot.store import Audit, Tally
from bot.testing import BotTester, Person
from plugins.handoff.canned import read_canned
from plugins.handoff.plugin import plugin
from tests.plugins.handoff.desk import MediaConnector, PickyConnector, echo

ROLES = {"agents": ["bot:anna", "bot:ben"], "admins": ["bot:chief"]}
LONG = 1e10


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    canned = {"hello": "您好，请问订单号是多少？", "bye": "感谢您的咨询。"}
    return bot_tester.use(plugin, canned=canned).use(echo).configure(staff_chats=["bot:s1"], roles=ROLES)


def told(bot: BotTester, chat: str) -> list[str]:
    """What a chat was sent without asking."""
    sent = [part for part in bot.connector.sent if part.target.chat == chat]
    return [part.text for part in sent if part.inbox_id is None]


async def counted(bot: BotTester, measure: str) -> dict[str, int]:
    tally = Tally((await bot.app()).store)
    return {item.label: item.count for item in await tally.sums(measure, 0, LONG)}


async def actions(bot: BotTester) -> list[tuple[str, str, str]]:
    latest = await Audit((await bot.app()).store).latest()
    return [(item.actor, item.action, item.subject) for item in reversed(latest)]


async def test_a_talk_from_the_wish_to_its_end(bot: BotTester) -> None:
    user, anna = bot.private("u1"), bot.group("s1").user("anna")
    await user.say("退款")
    await user.say("转人工")
    await user.say("我的订单丢了")
    claimed = (await anna.say("/claim 1")).text
    for known in ("问：退款\n答：bot: 退款", "客户：我的订单丢了", "u1"):
        assert known in claimed
    assert told(bot, "u1") == ["人工客服已接入，请说。"]
    assert (await anna.say("/reply #1 请稍等，\n我查一下")).text == "已发给 #1。"
    assert told(bot, "u1")[-1] == "【人工客服】请稍等，\n我查一下"
    assert (await user.say("好的")).text == ""
    assert told(bot, "s1")[-1] == "【#1】u1：好的"
    assert (await anna.say("/快捷 1 hello")).text == "已发给 #1。"
    assert told(bot, "u1")[-1] == "【人工客服】您好，请问订单号是多少？"
    assert (await anna.say("/note 1 老客户，脾气急")).text == "#1 已备注。"
    assert (await anna.say("/结束 1")).text == "#1 已结束。"
    assert "感谢您的咨询" in told(bot, "u1")[-1]
    assert (await user.say("在吗")).text == "bot: 在吗"
    assert await counted(bot, "escalated") == {"asked": 1}
    assert await counted(bot, "escalated_source") == {"": 1}
    assert await counted(bot, "taken") == {"agent": 1}
    assert await counted(bot, "closed") == {"agent": 1}
    done = ["claim", "reply", "reply", "note", "close"]
    assert await actions(bot) == [("bot:anna", f"handoff.{action}", "#1") for action in done]


async def test_a_customer_never_sees_who_answers_nor_what_is_noted(bot: BotTester) -> None:
    user, anna = bot.private("u1"), bot.private("anna")
    said = [await user.say("转人工")]
    for text in ("/claim 1", "/note 1 geheim", "/reply 1 hi", "你好", "/close 1"):
        await anna.say(text)
    said += [await user.say(text) for text in ("/handoffs", "/handoffs 1", "/claim 1", "/note 1 x", "在吗")]
    shown = "\n".join([*told(bot, "u1"), *(part.text for part in said)])
    assert "hi" in shown
    for secret in ("anna", "geheim", "#1"):
        assert secret not in shown


async def test_what_an_agent_writes_in_private_is_for_the_one_whose_talk_he_took_there(
    bot: BotTester,
) -> None:
    user, other, anna = bot.private("u1"), bot.private("u2"), bot.private("anna")
    await user.say("转人工")
    assert (await anna.say("在吗")).text == "bot: 在吗"
    await anna.say("/claim 1")
    assert (await anna.say("您好")).text == ""
    assert told(bot, "u1")[-1] == "【人工客服】您好"
    assert (await bot.group("s1").user("anna").say("@bot 大家好")).text == "bot: 大家好"
    assert (await user.say("在的")).text == ""
    assert told(bot, "anna") == ["【#1】u1：在的"]
    await other.say("转人工")
    await anna.say("/claim 2")
    assert "#1, #2" in (await anna.say("哪位？")).text
    assert "哪位" not in "".join(told(bot, "u1") + told(bot, "u2"))
    await anna.say("/close 1")
    await anna.say("哪位？")
    assert told(bot, "u2")[-1] == "【人工客服】哪位？"
    await anna.say("/close 2")
    assert (await anna.say("在吗")).text == "bot: 在吗"


async def test_what_was_claimed_in_a_group_leaves_private_chats_to_the_bot(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    await bot.group("s1").user("anna").say("/claim 1")
    assert (await bot.private("anna").say("退货规则")).text == "bot: 退货规则"
    await bot.private("anna").say("/claim 1")  # from here on he works in private
    await bot.private("anna").say("您好")
    assert told(bot, "u1")[-1] == "【人工客服】您好"
    assert await counted(bot, "taken") == {"agent": 1}


async def test_a_talk_has_one_agent_and_an_admin_may_take_it_over(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    group = bot.group("s1")
    assert "#1 由您处理" in (await group.user("anna").say("/claim 1")).text
    for command in ("/claim 1", "/reply 1 您好"):
        assert (await group.user("ben").say(command)).text == "#1 已由 anna 认领。"
    assert told(bot, "u1") == ["人工客服已接入，请说。"]
    assert "#1 由您处理" in (await group.user("chief").say("/claim 1")).text
    assert (await group.user("anna").say("/reply 1 您好")).text == "#1 已由 chief 认领。"
    assert told(bot, "u1") == ["人工客服已接入，请说。"]
    assert "chief 处理中" in (await group.user("ben").say("/handoffs")).text


async def test_of_two_who_claim_at_once_one_has_it(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    group = bot.group("s1")
    both = await asyncio.gather(*(group.user(agent).say("/认领 1") for agent in ("anna", "ben")))
    assert sorted("由您处理" in said.text for said in both) == [False, True]
    assert sorted("已由" in said.text for said in both) == [False, True]
    assert await counted(bot, "taken") == {"agent": 1}
    assert told(bot, "u1") == ["人工客服已接入，请说。"]


async def test_a_claim_and_the_customers_way_back_at_once_end_in_one_state(bot: BotTester) -> None:
    for number in range(1, 6):
        user = bot.private(f"u{number}")
        await user.say("转人工")
        claim = bot.private("anna").say(f"/认领 {number}")
        await asyncio.gather(*((claim, user.say("/bot")) if number % 2 else (user.say("/bot"), claim)))
        assert (await user.say("在吗")).text == "bot: 在吗"
    assert "没有人工处理中" in (await bot.private("anna").say("/人工列表")).text


async def test_who_answers_without_claiming_has_claimed(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    assert (await bot.group("s1").user("ben").say("/reply 1 您好")).text == "已发给 #1。"
    assert "ben 处理中" in (await bot.private("anna").say("/handoffs")).text


async def test_in_a_group_of_customers_only_one_talk_is_with_people(bot: BotTester) -> None:
    group, anna = bot.group("g"), bot.private("anna")
    await group.user("u1").say("@bot 转人工")
    await anna.say("/claim 1")
    await anna.say("您好")
    assert told(bot, "g") == ["人工客服已接入，请说。", "@u1 【人工客服】您好"]
    assert (await group.user("u2").say("@bot 在吗")).text == "bot: 在吗"
    assert (await group.user("u1").say("@bot 在吗")).text == ""


async def test_a_topic_gets_its_answers_there(bot: BotTester) -> None:
    user = bot.group("g").user("u1")
    message = user.message("@bot 转人工")
    topic = replace(message, chat=replace(message.chat, thread="7"))
    await bot.deliver(topic)
    await bot.private("anna").say("/reply 1 您好")
    sent = [part.target.thread for part in bot.connector.sent if part.target.chat == "g"]
    assert sent == ["7", "7", "7"]


@pytest.mark.parametrize("command", ["/handoffs", "/claim 1", "/reply 1 x", "/note 1 x", "/canned"])
async def test_among_customers_staff_are_shown_nothing(bot: BotTester, command: str) -> None:
    await bot.private("u1").say("转人工")
    said = (await bot.group("g").user("anna").say(command)).text
    assert "staff_chats" in said
    assert "u1" not in said


@pytest.mark.parametrize(
    "command", ["/claim", "/reply", "/note", "/canned", "/close", "/handoffs", "/release"]
)
async def test_customers_have_no_such_commands(bot: BotTester, command: str) -> None:
    await bot.private("u1").say("转人工")
    assert "没有使用这个命令的权限" in (await bot.private("u2").say(f"{command} 1 好")).text


@pytest.mark.parametrize("command", ["/claim 7", "/reply 7 x", "/note 7 x", "/close 7", "/canned 7 bye"])
async def test_what_is_no_open_talk_is_named(bot: BotTester, command: str) -> None:
    assert "/handoffs" in (await bot.private("anna").say(command)).text
    assert await actions(bot) == []


@pytest.mark.parametrize("command", ["/reply 1", "/note 1"])
async def test_nothing_is_nothing_to_say(bot: BotTester, command: str) -> None:
    await bot.private("u1").say("转人工")
    assert f"{command} 内容" in (await bot.private("anna").say(command)).text
    assert told(bot, "u1") == []


async def test_canned_answers_are_listed_and_unknown_ones_named(bot: BotTester) -> None:
    await bot.private("u1").say("转人工")
    anna = bot.private("anna")
    assert (await anna.say("/canned")).text.splitlines()[1] == "bye: 感谢您的咨询。"
    assert "nope" in (await anna.say("/canned 1 nope")).text
    assert told(bot, "u1") == []


async def test_canned_answers_may_stand_in_a_file(bot_tester: BotTester, tmp_path: Path) -> None:
    file = tmp_path / "canned.yaml"
    file.write_text("hello: 您好\n", "utf-8")
    bot = bot_tester.use(plugin, canned_file=str(file)).configure(staff_chats=["bot:s1"], roles=ROLES)
    assert (await bot.private("anna").say("/canned")).text == "hello: 您好"


@pytest.mark.parametrize("canned", [{"": "x"}, {"a b": "x"}, {"a": " "}, "x"])
async def test_what_is_no_canned_answer_is_refused(bot_tester: BotTester, canned: object) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.handoff"):
        await bot_tester.use(plugin, canned=canned).private().say("x")


@pytest.mark.parametrize("text", ["[1]", "a b: x", "hello: ''", "hello: 3", "{", "hello: " + "长" * 9000])
def test_a_file_of_them_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "canned.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(DataError) as raised:
        read_canned(file)
    assert raised.value.file == file


async def test_an_agent_hears_what_cannot_be_delivered(bot: BotTester) -> None:
    bot.configure(staff_chats=["bot:s1", "other:x"])
    bot.connector = PickyConnector(set())
    await bot.private("u1").say("转人工")
    bot.connector.capabilities = type(bot.connector.capabilities)(speaks_first=False)
    assert "没能发给 #1" in (await bot.private("anna").say("/reply 1 您好")).text
    assert "您好" not in (await bot.private("anna").say("/handoffs 1")).text


async def test_media_of_agents_are_passed_on(bot: BotTester) -> None:
    bot.connector = MediaConnector()
    await bot.private("u1").say("转人工")
    anna = bot.private("anna")
    await anna.say("/claim 1")
    assert (await anna.say("", segments=(Segment("image", "a.jpg", "ref"),))).text == ""
    [sent] = [part for part in bot.connector.sent if part.attachment is not None]
    assert (sent.target.chat, sent.attachment and sent.attachment.data) == ("u1", b"ref")
    bot.connector.broken = True
    assert "请改发文字" in (await anna.say("看", segments=(Segment("image", "a.jpg", "ref"),))).text


async def test_the_transcript_shows_sources_confidence_and_votes(bot: BotTester) -> None:
    faq = Plugin("faq")

    @faq.message(priority=20)
    async def answer(message: Message) -> Reply | None:
        return Reply("七天内", source="returns", confidence=0.83) if "退" in message.text else None

    user: Person = bot.use(faq).private("u1")
    await user.say("能退吗")
    await user.say("转人工")
    shown = (await bot.private("anna").say("/claim 1")).text
    assert "答：七天内\n  来源：returns\n  把握：83%" in shown
    assert await counted(bot, "escalated_source") == {"returns": 1}
