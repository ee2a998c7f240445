"""An intelligent robot over HTTP: a whole bot, and a WeCom that asks until an answer is finished."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from bot import Attachment, Message, Plugin, Reply, Session
from bot.catalogue import Catalogue
from bot.connectors.base import Inlet
from bot.connectors.wecom.aibot import Aibot
from bot.connectors.wecom.streams import MAX_CONTENT
from bot.errors import ConnectorError, Overloaded, StoreError
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from tests.bot.connectors.wecom.aibot_platform import (
    CRYPTO,
    METHOD,
    PNG,
    QUICK,
    Serve,
    WeCom,
    connector_of,
    echo,
    held,
    posted,
    serving,
)
from tests.bot.connectors.wecom.qyapi import FakeQyApi


@pytest.fixture
async def serve(tmp_path: Path, api_base: str, qyapi: FakeQyApi) -> AsyncIterator[Serve]:
    async with serving(tmp_path, api_base, qyapi) as start:
        yield start


# -- streams --------------------------------------------------------------------------------


async def test_the_url_is_verified(serve: Serve) -> None:
    robot = await serve(echo()[0])
    encrypted, signature = CRYPTO.seal(b"echo \xe9\x97\xae", "1700000000", "n")
    query = {"msg_signature": signature, "timestamp": "1700000000", "nonce": "n", "echostr": encrypted}
    async with robot.wecom.client.get(robot.wecom.url, params=query) as response:
        assert await response.text() == "echo 问"


async def test_an_answer_that_is_ready_at_once_comes_whole_and_counts_as_sent(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    robot = await serve(echo()[0])
    stream = await robot.wecom.ask("hi")
    assert (stream["finish"], stream["content"]) == (True, "echo hi")
    assert await robot.outcome() == {"sent": 1}
    assert not qyapi.calls


async def test_a_group_member_is_answered_without_the_robots_name(serve: Serve) -> None:
    plugin, seen = echo()
    robot = await serve(plugin)
    stream = await robot.wecom.ask("@RobotA hi", group="GROUP")
    assert stream["content"] == "echo hi"
    assert (seen[0].chat.id, seen[0].to_me) == ("GROUP", True)


async def test_a_stream_shows_the_whole_text_so_far_until_it_is_finished(serve: Serve) -> None:
    plugin, more = Plugin("writer"), asyncio.Event()

    @plugin.message()
    async def write(message: Message) -> AsyncIterator[str]:
        yield "The "
        yield "answer"
        await more.wait()
        yield " is 42."

    robot = await serve(plugin, QUICK)
    first = await robot.wecom.shows(await robot.wecom.ask(), "The answer")
    more.set()
    last = await robot.wecom.follow(first)
    assert last["content"] == "The answer is 42."
    assert await robot.outcome() == {"sent": 1}


@pytest.mark.parametrize(("text", "offered"), [("rate", True), ("hi", False)])
async def test_thumbs_are_offered_below_an_answer_that_asks_for_them(
    serve: Serve, text: str, offered: bool
) -> None:
    robot = await serve(echo()[0])
    assert ("feedback" in await robot.wecom.ask(text)) is offered


async def test_thumbs_are_offered_with_the_first_reply_only_and_name_the_answer(serve: Serve) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    message = robot.wecom.message()
    first = (await robot.wecom.post(message))[1]["stream"]
    inbox_id = await robot.app.dispatch.find("wecom-aibot", "robot", message["msgid"])
    assert first["feedback"] == {"id": str(inbox_id)}
    gate.set()
    assert "feedback" not in await robot.wecom.follow(first)


async def test_without_feedback_no_thumbs(serve: Serve) -> None:
    robot = await serve(echo()[0], feedback=False)
    assert "feedback" not in await robot.wecom.ask("rate")


async def test_copies_of_a_message_start_no_second_answer(serve: Serve) -> None:
    plugin, seen = echo()
    robot = await serve(plugin)
    message = robot.wecom.message()
    answers = await asyncio.gather(*(robot.wecom.post(message) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert sum(bool(answer) for _, answer in answers) == 1
    assert len(seen) == 1


async def test_silence_is_an_empty_response(serve: Serve) -> None:
    plugin, gate = held(None)
    gate.set()
    robot = await serve(plugin)
    assert await robot.wecom.ask() == {}


async def test_late_silence_ends_the_stream(serve: Serve) -> None:
    plugin, gate = held(None)
    robot = await serve(plugin, QUICK)
    first = await robot.wecom.ask()
    gate.set()
    assert (await robot.wecom.follow(first))["content"] == ""


async def test_what_is_said_on_the_way_stands_above_the_answer(serve: Serve) -> None:
    plugin, gate = Plugin("talker"), asyncio.Event()

    @plugin.message()
    async def answer(message: Message, session: Session) -> str:
        await session.say("Looking it up.")
        await gate.wait()
        return "42"

    robot = await serve(plugin, QUICK)
    first = await robot.wecom.shows(await robot.wecom.ask(), "Looking it up.")
    gate.set()
    assert (await robot.wecom.follow(first))["content"] == "Looking it up.\n\n42"
    assert await robot.outcome() == {"sent": 2}


@pytest.mark.parametrize("polled", [True, False])
async def test_what_was_only_said_arrives_although_no_answer_follows(
    serve: Serve, qyapi: FakeQyApi, polled: bool
) -> None:
    plugin, gate = Plugin("talker"), asyncio.Event()

    @plugin.middleware()
    async def talk(message: Message, session: Session) -> None:
        await session.say("Noted.")
        await gate.wait()

    robot = await serve(plugin, QUICK)
    first = await robot.wecom.ask()
    gate.set()
    if polled:
        assert (await robot.wecom.follow(first))["content"] == "Noted."
    else:
        await qyapi.called(METHOD)
        assert posted(qyapi) == ["Noted."]


async def test_images_come_with_the_finished_text(serve: Serve) -> None:
    plugin = Plugin("painter")

    @plugin.message()
    async def answer(message: Message) -> Reply:
        return Reply("see", attachments=(Attachment("image", "a.png", PNG),))

    robot = await serve(plugin)
    stream = await robot.wecom.ask()
    assert stream["content"] == "see"
    assert base64.b64decode(stream["msg_item"][0]["image"]["base64"]) == PNG
    assert await robot.outcome() == {"sent": 2}


async def test_members_of_a_group_do_not_wait_for_each_other(serve: Serve) -> None:
    """The first one's client has gone: its answer waits to be fetched, the second one's is there."""
    plugin, gate = held()
    robot = await serve(plugin, replace(QUICK, gone=4.0))
    await robot.wecom.ask(user="gone", group="GROUP")
    second = await robot.wecom.ask(user="here", group="GROUP")
    gate.set()
    began = time.monotonic()
    assert (await robot.wecom.follow(second))["content"] == "late answer"
    assert time.monotonic() - began < 2.0


async def test_a_stream_of_nobody_is_finished(serve: Serve) -> None:
    robot = await serve(echo()[0])
    stream = await robot.wecom.refresh("no-such-stream")
    assert (stream["finish"], stream["content"]) == (True, "")


# -- questions of the bot -------------------------------------------------------------------


async def test_a_question_is_answered_in_the_next_stream_and_its_end_by_the_response_url(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    plugin = Plugin("asker")

    @plugin.message()
    async def ask(message: Message, session: Session) -> str:
        size = await session.ask("Which size?", timeout=60)
        await session.ask(f"{size.text}. Which colour?", timeout=0.2)
        return "never"

    robot = await serve(plugin)
    assert (await robot.wecom.ask("order"))["content"] == "Which size?"
    assert (await robot.wecom.ask("large"))["content"] == "large. Which colour?"
    await qyapi.called(METHOD)
    assert posted(qyapi) == [Catalogue.load().text("ask_timeout", "en")]
    assert await robot.outcome() == {"sent": 3}


# -- events ---------------------------------------------------------------------------------


def greeter() -> tuple[Plugin, list[Message]]:
    plugin, seen = Plugin("greeter"), list[Message]()

    @plugin.event("entered")
    async def greet(message: Message) -> str:
        return "Welcome!"

    @plugin.event("feedback")
    async def note(message: Message) -> None:
        seen.append(message)

    @plugin.message()
    async def answer(message: Message) -> str:
        return f"echo {message.text}"

    return plugin, seen


async def test_who_enters_is_greeted_by_a_plain_text_once(serve: Serve) -> None:
    robot = await serve(greeter()[0])
    event = robot.wecom.event("enter_chat")
    greeting = {"msgtype": "text", "text": {"content": "Welcome!"}}
    assert [await robot.wecom.post(event) for _ in range(2)] == [(200, greeting), (200, {})]
    assert await robot.outcome() == {"sent": 1}


async def test_without_a_greeting_the_response_is_empty(serve: Serve) -> None:
    robot = await serve(echo()[0])
    assert await robot.wecom.post(robot.wecom.event("enter_chat")) == (200, {})


async def test_a_vote_reaches_the_plugins(serve: Serve) -> None:
    plugin, seen = greeter()
    robot = await serve(plugin)
    event = robot.wecom.event("feedback_event", id="17", type=2, content="bad")
    assert await robot.wecom.post(event) == (200, {})
    await robot.settled()
    assert [(message.data["vote"], message.data["inbox_id"]) for message in seen] == [("down", 17)]


async def test_a_click_on_a_card_is_answered_by_the_response_url(serve: Serve, qyapi: FakeQyApi) -> None:
    robot = await serve(greeter()[0], QUICK)
    assert await robot.wecom.post(robot.wecom.event("template_card_event", event_key="yes")) == (200, {})
    await robot.settled()
    assert posted(qyapi) == ["echo yes"]


# -- what is refused ------------------------------------------------------------------------


class NoCore:
    """In the place of a core: takes no message."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def receive(self, message: Message) -> None:
        raise self.error

    async def find(self, *names: str) -> None:
        raise self.error


@pytest.fixture
async def alone(api_base: str) -> AsyncIterator[tuple[Aibot, WeCom]]:
    """A robot that is not started, and who asks it."""
    robot = connector_of(api_base, Metrics())
    app = web.Application()
    app.router.add_routes(robot.routes())
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as client:
        yield robot, WeCom(str(server.make_url("")).rstrip("/"), client, api_base)
    await robot.close()


REFRESH = {"msgtype": "stream", "stream": {"id": "of-an-earlier-process"}}


@pytest.mark.parametrize("plain", [b"", b"{", b"[]", b'{"msgtype":"future"}', b'{"msgtype":"stream"}'])
async def test_what_cannot_be_read_is_acknowledged_and_logged_once(
    alone: tuple[Aibot, WeCom], plain: bytes
) -> None:
    with capture_logs() as logs:
        assert await alone[1].post(plain) == (200, {})
    assert [entry["event"] for entry in logs] == ["ignored"]


async def test_nothing_is_accepted_before_the_start(alone: tuple[Aibot, WeCom]) -> None:
    robot, wecom = alone
    assert [(await wecom.post(body))[0] for body in (wecom.message(), REFRESH)] == [503, 503]
    part = Outgoing(Target("wecom-aibot", "robot", "zhang", delivery="m"), "hi", "k", inbox_id=1)
    with pytest.raises(ConnectorError) as caught:
        await robot.send(part)
    assert caught.value.retry_after


@pytest.mark.parametrize("error", [Overloaded(7), StoreError("full", transient=True)])
async def test_what_is_not_committed_is_not_acknowledged(
    alone: tuple[Aibot, WeCom], error: Exception
) -> None:
    robot, wecom = alone
    await robot.start(cast(Inlet, NoCore(error)))
    assert (await wecom.post(wecom.message()))[0] == 503
    assert int(wecom.headers["Retry-After"]) >= 5


async def test_a_stream_is_not_ended_because_the_store_is_away(alone: tuple[Aibot, WeCom]) -> None:
    robot, wecom = alone
    await robot.start(cast(Inlet, NoCore(StoreError("away", transient=True))))
    assert (await wecom.post(REFRESH))[0] == 503


def test_it_keeps_what_the_url_and_a_message_hold() -> None:
    able = connector_of("https://qyapi.weixin.qq.com", Metrics()).capabilities
    assert (able.max_text, able.unit, able.streaming) == (MAX_CONTENT, "bytes", True)
    assert (able.give_up_after, able.speaks_first) == (3600, False)
