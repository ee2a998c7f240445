"""Passive replies: what goes into the response to a callback, and what goes out by itself after all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from bot import Message, Plugin, Reply, Session
from bot.connectors.wecom import app as app_module
from bot.connectors.wecom.passive import PassiveReplies
from bot.reply import Attachment, Outgoing, Target
from tests.bot.connectors.wecom.app_platform import Running, event, running, text
from tests.bot.connectors.wecom.qyapi import CORP, FakeQyApi

Serve = Callable[[Plugin], Awaitable[Running]]


@pytest.fixture
async def serve(api_base: str) -> Any:
    """Starts a bot whose application answers passively."""
    async with AsyncExitStack() as stack:

        async def start(plugin: Plugin) -> Running:
            return await stack.enter_async_context(running(plugin, api_base, reply="passive"))

        yield start


def answering(answer: Callable[[str], Any]) -> Plugin:
    """A plugin that answers a text by a function, which may return an awaitable."""
    plugin = Plugin("answering")

    @plugin.message()
    async def reply(message: Message) -> Any:
        found = answer(message.text)
        return await found if isinstance(found, Awaitable) else found

    return plugin


def contents(qyapi: FakeQyApi) -> list[str]:
    """What was sent by message/send."""
    return [call[call["msgtype"]].get("content", call["msgtype"]) for call in qyapi.of("message/send")]


class Held:
    """A plugin that tells when it was asked, and answers when it may."""

    def __init__(self, question: str = "hi") -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.plugin = answering(self._answer)
        self._question = question

    async def _answer(self, said: str) -> str:
        if said == self._question:
            self.asked.set()
            await self.may.wait()
        return f"to {said}"


async def test_an_answer_in_time_is_the_response(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(answering(lambda said: Reply(f"**{said}** <&]]>", markdown=True)))
    status, reply = await here.wecom.post(text("运费"))
    assert status == 200
    assert 0 <= time.time() - int(reply.pop("CreateTime")) < 5
    assert reply == {
        "ToUserName": "zhangsan",
        "FromUserName": CORP,
        "MsgType": "text",
        "Content": "运费 <&]]>",
    }
    await here.bot.stop()
    assert here.bot.outbox.pending == 0
    assert contents(qyapi) == []


async def test_a_late_answer_is_sent(serve: Serve, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "PASSIVE_WITHIN", 0.1)
    held = Held()
    here = await serve(held.plugin)
    assert await here.wecom.post(text("hi")) == (200, {})
    held.may.set()
    await qyapi.called("message/send")
    assert contents(qyapi) == ["to hi"]


async def test_of_several_parts_the_first_is_the_response(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(answering(lambda said: "很长的回答。" * 300))
    _, reply = await here.wecom.post(text("hi"))
    assert 0 < len(reply["Content"].encode()) <= 2048
    await here.bot.stop()
    assert reply["Content"] + "".join(contents(qyapi)) == "很长的回答。" * 300
    assert len(contents(qyapi)) == 2


async def test_what_is_said_before_the_answer_is_the_response(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin, gate = Plugin("talking"), asyncio.Event()

    @plugin.message()
    async def answer(session: Session) -> str:
        await session.say("one moment")
        await gate.wait()
        return "here it is"

    here = await serve(plugin)
    _, reply = await here.wecom.post(text("hi"))
    gate.set()
    await qyapi.called("message/send")
    assert (reply["Content"], contents(qyapi)) == ("one moment", ["here it is"])


async def test_copies_get_an_empty_response(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(answering(lambda said: "once"))
    copy = text("hi")
    replies = [await here.wecom.post(copy) for _ in range(3)]
    assert [status for status, _ in replies] == [200] * 3
    assert [bool(reply) for _, reply in replies] == [True, False, False]
    assert contents(qyapi) == []


async def test_of_copies_at_the_same_time_one_gets_the_answer(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(answering(lambda said: "once"))
    for _ in range(5):
        copy = text("hi")
        replies = await asyncio.gather(*(here.wecom.post(copy) for _ in range(8)))
        assert [status for status, _ in replies] == [200] * 8
        assert sum(bool(reply) for _, reply in replies) + len(qyapi.of("message/send")) == 1
        qyapi.calls.clear()


async def test_copies_of_a_waiting_message_do_not_wait(serve: Serve, qyapi: FakeQyApi) -> None:
    held = Held()
    here = await serve(held.plugin)
    copy = text("hi")
    first = asyncio.create_task(here.wecom.post(copy))
    await held.asked.wait()
    async with asyncio.timeout(2):
        assert [await here.wecom.post(copy) for _ in range(2)] == [(200, {})] * 2
    held.may.set()
    assert (await first)[1]["Content"] == "to hi"
    assert contents(qyapi) == []


async def test_silence_is_told_at_once(serve: Serve) -> None:
    here = await serve(Plugin("silent"))
    async with asyncio.timeout(2):
        assert await here.wecom.post(event("subscribe")) == (200, {})


async def test_an_attachment_alone_is_sent(serve: Serve, qyapi: FakeQyApi) -> None:
    link = Attachment("link", "Manual", url="https://example.com")
    here = await serve(answering(lambda said: Reply("", attachments=(link,))))
    async with asyncio.timeout(2):
        assert await here.wecom.post(text("hi")) == (200, {})
    await qyapi.called("message/send")
    assert contents(qyapi) == ["news"]


async def test_who_left_before_the_answer_is_sent_it(serve: Serve, qyapi: FakeQyApi) -> None:
    held = Held()
    here = await serve(held.plugin)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(here.wecom.post(text("hi")), 0.2)
    held.may.set()
    await qyapi.called("message/send")
    assert contents(qyapi) == ["to hi"]


async def test_a_late_answer_goes_out_before_the_next_response(
    serve: Serve, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held("first")
    here = await serve(held.plugin)
    monkeypatch.setattr(app_module, "PASSIVE_WITHIN", 0.1)
    assert await here.wecom.post(text("first")) == (200, {})
    monkeypatch.undo()
    qyapi.gates["message/send"] = asyncio.Event()
    second = asyncio.create_task(here.wecom.post(text("second")))
    held.may.set()
    await qyapi.called("message/send")
    assert not second.done()
    qyapi.gates["message/send"].set()
    assert (await second)[1]["Content"] == "to second"
    assert contents(qyapi) == ["to first"]


async def test_a_bot_that_stops_still_answers(serve: Serve, qyapi: FakeQyApi) -> None:
    held = Held()
    here = await serve(held.plugin)
    asked = asyncio.create_task(here.wecom.post(text("hi")))
    await held.asked.wait()
    stopping = asyncio.create_task(here.bot.stop())
    assert (await here.wecom.post(text("again")))[0] == 503
    held.may.set()
    assert (await asked)[1]["Content"] == "to hi"
    await stopping
    assert contents(qyapi) == []


# -- where both meet ------------------------------------------------------------------------


def offered(delivery: str = "d") -> Outgoing:
    return Outgoing(Target("wecom-app", "desk", "u", delivery=delivery), "Answer", "k")


async def test_a_part_without_a_slot_is_given_back() -> None:
    replies = PassiveReplies()
    with replies.slot("d"):
        assert not await replies.offer(offered("other"))
    assert not await replies.offer(offered())


async def test_a_part_that_a_copy_holds_is_given_back_when_the_copy_leaves() -> None:
    replies = PassiveReplies()
    with replies.slot("d"):
        offer = asyncio.create_task(replies.offer(offered()))
        await asyncio.sleep(0)
        assert not offer.done()
    assert not await offer


async def test_a_slot_takes_one_part() -> None:
    replies = PassiveReplies()
    with replies.slot("d"):
        first = asyncio.create_task(replies.offer(offered()))
        await asyncio.sleep(0)
        assert not await replies.offer(offered())
    await first


async def test_a_part_whose_sender_was_stopped_is_not_written() -> None:
    replies = PassiveReplies()
    inlet: Any = None  # not asked: the part is there
    with replies.slot("d") as slot:
        offer = asyncio.create_task(replies.offer(offered()))
        await asyncio.sleep(0)
        offer.cancel()
        await asyncio.gather(offer, return_exceptions=True)
        assert await slot.part(inlet, 1, asyncio.get_running_loop().time() + 1) is None
