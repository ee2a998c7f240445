"""What plugins do with connectors beside answering: send unasked, fetch media, hand a talk to people."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot import Channels, ConnectorError, Message, Plugin, Reply, Segment, Undeliverable
from bot.connectors.base import Capabilities
from bot.reply import Outgoing, Target
from bot.testing import BotTester, FakeConnector


class DeskConnector(FakeConnector):
    """A platform with a desk of its own, which gives media too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Target]] = []

    async def hand_over(self, target: Target) -> None:
        self.calls.append(("hand over", target))

    async def take_back(self, target: Target) -> None:
        self.calls.append(("take back", target))

    async def with_people(self, target: Target) -> bool:
        return (self.calls[-1][0], self.calls[-1][1].chat) == ("hand over", target.chat)

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        return segment.ref.encode()[:limit]


@pytest.fixture
def plugin() -> Plugin:
    plugin = Plugin("staff")

    @plugin.command("tell")
    async def tell(message: Message, args: str, channels: Channels) -> str:
        sent = await channels.send(channels.staff[0], Reply(args, sources=("a page",)), key=args)
        return "sent" if sent else "sent before"

    @plugin.command("topic")
    async def topic(args: str, channels: Channels) -> str:
        await channels.send(channels.staff[0], args, key=args, thread="7")
        return "sent"

    @plugin.command("lost")
    async def lost(channels: Channels) -> str:
        try:
            await channels.send("nobody:1", "hello", key="1")
        except Undeliverable as error:
            return error.problem
        return "sent"

    @plugin.command("failed")
    async def failed(args: str, channels: Channels) -> str:
        return "yes" if await channels.failed(channels.staff[0], key=args) else "no"

    @plugin.command("desk")
    async def desk(message: Message, channels: Channels) -> str:
        if channels.has_desk(message):
            await channels.hand_over(message)
            chat = f"{message.bot}:{message.chat.id}"
            during = await channels.with_people(chat)
            await channels.take_back(chat)
            return f"with people: {during}, then {await channels.with_people(chat)}"
        with pytest.raises(Undeliverable):
            await channels.hand_over(message)
        for chat in (f"{message.bot}:{message.chat.id}", "nobody:1"):
            with pytest.raises(Undeliverable):
                await channels.take_back(chat)
            with pytest.raises(Undeliverable):
                await channels.with_people(chat)
        return "none"

    @plugin.message()
    async def look(message: Message, channels: Channels) -> str:
        try:
            return (await channels.fetch(message, message.segments[0], limit=4)).decode()
        except ConnectorError:
            return "no media"

    return plugin


@pytest.fixture
def tester(bot_tester: BotTester, plugin: Plugin) -> BotTester:
    return bot_tester.use(plugin).configure(staff_chats=["bot:staff"])


async def test_a_plugin_speaks_first_and_once_for_a_key(tester: BotTester) -> None:
    chat = tester.private("u1")
    assert (await chat.say("/tell come quick")).text == "sent"
    assert (await chat.say("/tell come quick")).text == "sent before"
    told = [part for part in tester.connector.sent if part.target.chat == "staff"]
    assert [(part.text, part.sources) for part in told] == [("come quick", ("a page",))]


async def test_what_is_said_first_may_go_to_a_topic(tester: BotTester) -> None:
    assert (await tester.private("u1").say("/topic come quick")).text == "sent"
    [told] = [part for part in tester.connector.sent if part.target.chat == "staff"]
    assert (told.text, told.target.thread) == ("come quick", "7")


async def test_what_is_said_first_is_sent_by_the_outbox(tester: BotTester) -> None:
    platform = tester.connector
    platform.capabilities = Capabilities(shows_sources=True)
    assert (await tester.private("u1").say("/tell come quick")).text == "sent"
    await (await tester.app()).outbox.drain(5)
    told = {part.target.chat: part.text for part in platform.sent}
    assert told == {"staff": "come quick", "u1": "sent"}


async def test_what_will_never_arrive_can_be_asked_for(
    tester: BotTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(outgoing: Outgoing) -> str:
        if outgoing.text.startswith("come quick"):
            raise Undeliverable("no such chat")
        return "1"

    tester.connector.capabilities = Capabilities()
    monkeypatch.setattr(tester.connector, "send", send)
    chat = tester.private("u1")
    for text in ("come quick", "all is well"):
        await chat.say(f"/tell {text}")
    await (await tester.app()).outbox.drain(5)
    asked = ("come quick", "all is well", "never said")
    assert [(await chat.say(f"/failed {key}")).text for key in asked] == ["yes", "no", "no"]


async def test_a_connector_that_can_only_answer_is_refused(tester: BotTester) -> None:
    tester.connector.name, tester.connector.capabilities = (
        "nobody",
        Capabilities(pull=True, speaks_first=False),
    )
    assert (await tester.private().say("/lost")).text == "'nobody' can only answer"


async def test_an_unknown_connector_is_named(tester: BotTester) -> None:
    assert (await tester.private().say("/lost")).text == "no connector is named 'nobody'"


async def test_a_talk_goes_to_the_platforms_own_desk_and_back(tester: BotTester) -> None:
    assert (await tester.private().say("/desk")).text == "none"
    tester.connector = desk = DeskConnector()
    await tester.close()
    assert (await tester.private("u1").say("/desk")).text == "with people: True, then False"
    (over, taken), (back, given) = desk.calls
    assert (over, back) == ("hand over", "take back")
    assert [(at.connector, at.bot, at.chat) for at in (taken, given)] == [("test", "bot", "u1")] * 2


async def test_media_come_from_platforms_that_give_them(tester: BotTester) -> None:
    picture: Any = {"segments": (Segment("image", ref="MEDIA-1"),)}
    assert (await tester.private().say("", **picture)).text == "no media"
    tester.connector = DeskConnector()
    await tester.close()
    assert (await tester.private().say("", **picture)).text == "MEDI"


async def test_a_reply_knows_the_return_path_of_its_message(tester: BotTester) -> None:
    message = replace(tester.private().message("/lost"), return_path="https://x.test/once")
    (part,) = (await tester.deliver(message)).replies
    assert part.target.return_path == "https://x.test/once"


async def test_a_connector_is_known_by_its_name(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.command("platform")
    def platform(args: str, channels: Channels) -> str:
        return str(channels.platform(args))

    mei = bot_tester.use(plugin).private("mei")
    assert (await mei.say("/platform bot")).text == "test"
    assert (await mei.say("/platform test")).text == "None"
