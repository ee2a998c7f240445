"""A self-built application: what it takes in, what it sends, and what WeCom's refusals lead to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from bot import Message, Plugin, Reply
from bot.connectors.base import MediaSource
from bot.connectors.wecom import app as app_module
from bot.connectors.wecom import app_sender
from bot.connectors.wecom import token as token_module
from bot.connectors.wecom.app import App
from bot.connectors.wecom.pace import Limit
from bot.errors import MAY_HAVE_ARRIVED, ConnectorError, Overloaded, StoreError, Undeliverable
from bot.message import Segment
from bot.metrics import Metrics
from bot.reply import Attachment
from tests.bot.connectors.wecom.app_platform import (
    CRYPTO,
    Running,
    Wecom,
    application,
    event,
    part,
    running,
    text,
)
from tests.bot.connectors.wecom.qyapi import AGENT, Call, FakeQyApi, Refusal

Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve(api_base: str) -> AsyncIterator[Serve]:
    """Starts bots with an application; keywords are its settings."""
    async with AsyncExitStack() as stack:

        async def start(plugin: Plugin, **settings: Any) -> Running:
            return await stack.enter_async_context(running(plugin, api_base, **settings))

        yield start


@pytest.fixture
async def connect(api_base: str) -> AsyncIterator[Callable[..., App]]:
    """Makes applications without a bot; keywords are settings."""
    made: list[App] = []

    def make(**settings: Any) -> App:
        made.append(application(api_base, **settings)[0])
        return made[-1]

    yield make
    for app in made:
        await app.stop()
        await app.close()


def echo() -> tuple[Plugin, list[Message]]:
    """A plugin that answers texts and takes note of all it sees."""
    plugin, seen = Plugin("echo"), list[Message]()

    @plugin.message()
    async def answer(message: Message) -> str:
        seen.append(message)
        return f"echo {message.text}"

    @plugin.event("entered")
    async def greet(message: Message) -> str:
        seen.append(message)
        return "welcome"

    return plugin, seen


def counted(metrics: Metrics, what: str, reason: str) -> float:
    labels = {"connector": "desk", "reason": reason}
    return metrics.registry.get_sample_value(f"glmbot_sends_{what}_total", labels) or 0.0


# -- inbound --------------------------------------------------------------------------------


async def test_a_question_is_acknowledged_and_answered(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(echo()[0])
    assert await here.wecom.post(text("运费?")) == (200, {})
    assert await qyapi.called("message/send") == [
        {"touser": "zhangsan", "agentid": AGENT, "msgtype": "text", "text": {"content": "echo 运费?"}}
    ]


async def test_the_url_is_verified(serve: Serve) -> None:
    here = await serve(echo()[0])
    echoed, signature = CRYPTO.seal("中文 +/=".encode(), "1", "n")
    query = {"msg_signature": signature, "timestamp": "1", "nonce": "n", "echostr": echoed}
    async with here.wecom.client.get(here.wecom.url, params=query) as response:
        assert (response.status, await response.text()) == (200, "中文 +/=")


async def test_who_cannot_sign_is_turned_away(serve: Serve) -> None:
    plugin, seen = echo()
    here = await serve(plugin)
    assert await here.wecom.post(text("hi"), msg_signature="0" * 40) == (403, {})
    await here.bot.stop()
    assert seen == []


async def test_copies_are_answered_once(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin, seen = echo()
    here = await serve(plugin)
    for message in (text("hi"), event("subscribe")):
        replies = await asyncio.gather(*(here.wecom.post(message) for _ in range(5)))
        replies.append(await here.wecom.post(message))
        assert replies == [(200, {})] * 6
    await here.bot.stop()
    assert [(message.text, message.event) for message in seen] == [("hi", ""), ("", "entered")]
    assert len(qyapi.of("message/send")) == 2


@pytest.mark.parametrize(
    "message",
    [
        text("", MsgType="future_type"),
        text("hi", AgentID=218),
        event("some_future_event"),
        b"no XML",
        b'<!DOCTYPE xml [<!ENTITY a "x">]><xml><MsgType>text</MsgType><Content>&a;</Content></xml>',
        event("kf_msg_or_event", OpenKfId="wkUnknown", Token="T", FromUserName=None, AgentID=None),
    ],
)
async def test_what_nobody_can_handle_is_acknowledged_and_logged_once(serve: Serve, message: Any) -> None:
    plugin, seen = echo()
    here = await serve(plugin)
    with capture_logs() as logs:
        assert await here.wecom.post(message) == (200, {})
    assert [entry["log_level"] for entry in logs if entry["event"] == "ignored"] == ["warning"]
    await here.bot.stop()
    assert seen == []


async def test_an_image_alone_is_answered_politely(serve: Serve, qyapi: FakeQyApi) -> None:
    here = await serve(Plugin("nothing"))
    assert await here.wecom.post(text("", MsgType="image", MediaId="M", Content=None)) == (200, {})
    (call,) = await qyapi.called("message/send")
    assert call["text"]["content"]


async def test_events_of_an_account_wake_who_fetches(serve: Serve) -> None:
    here = await serve(Plugin("nothing"))
    tokens: list[str] = []
    here.connector.route_kf("wk1", tokens.append)
    news = event("kf_msg_or_event", OpenKfId="wk1", FromUserName=None, AgentID=None)
    for token in ("T1", "T2"):
        assert await here.wecom.post({**news, "Token": token}) == (200, {})
    assert tokens == ["T1", "T2"]


@pytest.mark.parametrize("reply", ["active", "passive"])
async def test_what_is_not_committed_is_not_acknowledged(connect: Any, reply: str) -> None:
    app = connect(reply=reply)
    server = web.Application()
    server.add_routes(app.routes())

    async def refuse(message: Message) -> Any:
        raise refusals.pop()

    refusals = [Overloaded(), StoreError("disk full")]
    async with TestServer(server) as running_server, aiohttp.ClientSession() as client:
        wecom = Wecom(str(running_server.make_url("/wecom-app/desk")), client)
        assert (await wecom.post(text("hi")))[0] == 503  # not started
        inlet: Any = SimpleNamespace(receive=refuse)
        await app.start(inlet)
        for _ in range(2):
            assert (await wecom.post(text("hi")))[0] == 503
        assert refusals == []
        await app.stop()
        assert (await wecom.post(text("hi")))[0] == 503


# -- outbound -------------------------------------------------------------------------------


async def test_a_long_answer_is_sent_in_parts_that_are_not_cut(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin = Plugin("long")

    @plugin.message()
    async def answer() -> Reply:
        return Reply("**退款**说明。" * 300, markdown=True)

    here = await serve(plugin)
    await here.wecom.post(text("hi"))
    await qyapi.called("message/send", 2)
    await here.bot.stop()
    sent = [call["text"]["content"] for call in qyapi.of("message/send")]
    assert "".join(sent) == "退款说明。" * 300
    assert qyapi.problems == []


async def test_markdown_is_sent_as_such_where_it_is_wanted(connect: Any, qyapi: FakeQyApi) -> None:
    await connect(markdown=True).send(part("**hi**", markdown=True))
    await connect().send(part("**hi**", markdown=True))
    await connect(markdown=True).send(part("**hi**"))
    assert [(call["msgtype"], call[call["msgtype"]]["content"]) for call in qyapi.of("message/send")] == [
        ("markdown", "**hi**"),
        ("text", "hi"),
        ("text", "**hi**"),
    ]


@pytest.mark.parametrize("code", [40008, 999_999])
async def test_refused_markdown_is_sent_as_text(connect: Any, qyapi: FakeQyApi, code: int) -> None:
    qyapi.refuse("message/send", code)
    assert await connect(markdown=True).send(part("**hi**", markdown=True))
    assert [call["msgtype"] for call in qyapi.of("message/send")] == ["markdown", "text"]


@pytest.mark.parametrize(
    ("kind", "data", "sent_as"),
    [
        ("image", b"\x89PNG", "image"),
        ("video", b"ftyp", "video"),
        ("file", b"%PDF", "file"),
        ("voice", b"#!AMR\n", "voice"),
        ("voice", b"ID3", "file"),
    ],
)
async def test_media_are_uploaded_and_sent(
    connect: Any, qyapi: FakeQyApi, kind: Any, data: bytes, sent_as: str
) -> None:
    await connect().send(part("[手册.pdf]", attachment=Attachment(kind, "手册.pdf", data)))
    (call,) = qyapi.of("message/send")
    assert qyapi.media[call[sent_as]["media_id"]] == ("手册.pdf", data)
    assert call["msgtype"] == sent_as
    assert [call.query["type"] for call in qyapi.calls if call.method == "media/upload"] == [sent_as]


async def test_a_link_is_sent_as_news(connect: Any, qyapi: FakeQyApi) -> None:
    link = Attachment("link", "Manual", url="https://example.com", text="All of it")
    await connect().send(part(link.line, attachment=link))
    (call,) = qyapi.of("message/send")
    article = {"title": "Manual", "description": "All of it", "url": "https://example.com"}
    assert (call["msgtype"], call["news"]) == ("news", {"articles": [article]})


async def test_a_refused_attachment_is_named_in_a_text(connect: Any, qyapi: FakeQyApi) -> None:
    qyapi.refuse("media/upload", 40009)
    await connect().send(part("[a.png]", attachment=Attachment("image", "a.png", b"x")))
    (call,) = qyapi.of("message/send")
    assert call["text"] == {"content": "[a.png]"}


async def test_a_group_chat_of_the_application_is_written_to(connect: Any, qyapi: FakeQyApi) -> None:
    assert await connect().send(part("hi", chat="appchat:room1")) is None
    assert qyapi.of("appchat/send") == [{"chatid": "room1", "msgtype": "text", "text": {"content": "hi"}}]


async def test_what_a_member_sent_is_fetched(connect: Any, qyapi: FakeQyApi) -> None:
    app = connect()
    qyapi.media["M"] = ("a.png", b"image bytes")
    assert isinstance(app, MediaSource)
    assert await app.fetch(Segment("image", ref="M"), 100) == b"image bytes"
    for segment, limit in ((Segment("image", ref="M"), 5), (Segment("image", ref="gone"), 100)):
        with pytest.raises(ConnectorError):
            await app.fetch(segment, limit)
    with pytest.raises(Undeliverable):
        await app.fetch(Segment("link", "t", "http://127.0.0.1/"), 100)


# -- limits and refusals --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "method", "most", "reason"),
    [("zhangsan", "message/send", 30, "member"), ("appchat:room1", "appchat/send", 200, "appchat")],
)
async def test_more_than_one_receiver_is_shown_waits(
    api_base: str, qyapi: FakeQyApi, chat: str, method: str, most: int, reason: str
) -> None:
    app, metrics = application(api_base)
    for _ in range(most):
        await app.send(part(chat=chat))
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ConnectorError) as caught:
                await app.send(part(chat=chat))
            assert caught.value.code is None
            assert 0 < (caught.value.retry_after or 0) <= 60
    assert len(qyapi.of(method)) == most
    assert (counted(metrics, "held", reason), len(logs)) == (1, 1)
    await app.send(part(chat=chat + "2"))
    assert len(qyapi.of(method)) == most + 1
    await app.close()


@pytest.mark.parametrize("reason", ["invaliduser", "unlicenseduser"])
async def test_a_success_that_reached_nobody_is_a_failure(
    api_base: str, qyapi: FakeQyApi, reason: str
) -> None:
    app, metrics = application(api_base)
    qyapi.answers["message/send"] = lambda call: {reason: call.payload["touser"].lower(), "msgid": "m"}
    with pytest.raises(Undeliverable):
        await app.send(part(chat="ZhangSan"))
    qyapi.answers["message/send"] = lambda call: {reason: "zhangsan", "msgid": "m"}
    assert await app.send(part(chat="ZhangSan|lisi")) == "m"
    assert counted(metrics, "lost", reason) == 2
    await app.close()


async def test_what_will_never_arrive_is_not_tried_again(connect: Any, qyapi: FakeQyApi) -> None:
    qyapi.unknown_users.add("zhangsan")
    with pytest.raises(Undeliverable) as caught:
        await connect().send(part())
    assert caught.value.code == 81013


async def test_refusals_are_tried_again_and_show_in_the_status(connect: Any, qyapi: FakeQyApi) -> None:
    app, inlet = connect(), SimpleNamespace()
    await app.start(inlet)
    await shows(app, "ok")
    qyapi.refuse("message/send", 45009)
    with pytest.raises(ConnectorError) as caught:
        await app.send(part())
    assert caught.value.retry_after == 60
    assert not isinstance(caught.value, Undeliverable)
    assert (app.status.state, "45009" in app.status.detail) == ("retrying", True)
    await app.send(part())
    assert (app.status.state, app.status.detail) == ("ok", "")


async def test_the_status_tells_nobody_where_this_host_is(connect: Any, qyapi: FakeQyApi) -> None:
    def refuse(call: Call) -> dict[str, Any]:
        raise Refusal(60020, "not allow to access from your ip, from ip: 203.0.113.9")

    app, inlet = connect(), SimpleNamespace()
    qyapi.answers["message/send"] = refuse
    await app.start(inlet)
    await shows(app, "ok")
    with pytest.raises(ConnectorError) as caught:
        await app.send(part())
    assert "203.0.113.9" in str(caught.value)
    assert "60020" in app.status.detail
    assert "203.0.113.9" not in app.status.detail


async def test_how_long_a_send_is_tried(connect: Any, qyapi: FakeQyApi) -> None:
    app = connect()
    await app.send(part())
    for chat, method in (("zhangsan", "message/send"), ("appchat:room", "appchat/send")):
        qyapi.cut(method)
        with pytest.raises(ConnectorError) as caught:
            await app.send(part(chat=chat))
        assert caught.value.patience == MAY_HAVE_ARRIVED
        qyapi.refuse(method, 999_999)
        with pytest.raises(ConnectorError) as caught:
            await app.send(part(chat=chat))
        assert caught.value.patience == 600
        assert not isinstance(caught.value, Undeliverable)


async def test_a_revoked_token_does_not_cost_an_answer(connect: Any, qyapi: FakeQyApi) -> None:
    app = connect()
    await app.send(part("one"))
    qyapi.revoke()
    await app.send(part("two"))
    assert len(qyapi.tokens) == 2
    assert [call["text"]["content"] for call in qyapi.of("message/send")] == ["one", "two", "two"]


async def test_the_documented_limits_are_kept() -> None:
    assert (Limit(30, 60.0), Limit(1000, 3600.0)) == app_sender.PER_MEMBER
    assert (Limit(200, 60.0), Limit(10_000, 86_400.0)) == app_sender.PER_APPCHAT


async def test_a_wrong_secret_shows_in_the_status_until_it_is_right(
    connect: Any, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "CHECKS", (0.1,))
    monkeypatch.setattr(token_module, "AFTER_REFUSAL", 0.0)
    app, inlet = connect(), SimpleNamespace()
    qyapi.refuse("gettoken", 40001)
    await app.start(inlet)
    await shows(app, "retrying")
    assert "40001" in app.status.detail
    await shows(app, "ok")
    assert app.status.detail == ""


async def shows(app: App, state: str) -> None:
    """Wait for a state."""
    for _ in range(500):
        if app.status.state == state:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{app.status} is not {state}")
