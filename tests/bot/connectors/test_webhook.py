"""The generic webhook over real HTTP: signatures, refusals, outcomes, and replies sent elsewhere."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook as PeerSigner

from bot import Message, Plugin, Reply
from bot.app import App
from bot.config_connectors import WebhookSettings
from bot.connectors.standard_webhooks import SignatureError, Signer
from bot.connectors.webhook import RETRIES, Webhook
from bot.errors import ConnectorError, Overloaded, StoreError, Undeliverable
from bot.reply import Outgoing, Target

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
ids = (f"msg_{number}" for number in count(1))


def question(text: str = "hi", **changes: Any) -> bytes:
    fields = {"type": "message", "chat_id": "c1", "user_id": "u1", "text": text} | changes
    return json.dumps(fields, ensure_ascii=False).encode()


def signed(
    body: bytes, *, id: str | None = None, secret: str = SECRET, at: float | None = None
) -> dict[str, str]:
    """Headers as the reference library makes them."""
    message_id, moment = id or next(ids), datetime.fromtimestamp(time.time() if at is None else at, UTC)
    signature = PeerSigner(secret).sign(message_id, moment, body.decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
        "Content-Type": "application/json",
    }


class Source:
    """A system that talks to the bot."""

    def __init__(self, app: App, client: aiohttp.ClientSession) -> None:
        assert app.server is not None
        self.url = f"http://127.0.0.1:{app.server.port}/webhook/shop"
        self.client = client

    async def post(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        headers = signed(body) if headers is None else headers
        async with self.client.post(self.url, data=body, headers=headers) as response:
            self.headers = response.headers
            return response.status, await response.json()

    async def fetch(self, id: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        headers = signed(b"") if headers is None else headers
        async with self.client.get(f"{self.url}/replies/{id}", headers=headers) as response:
            return response.status, await response.json()


Connect = Callable[..., Awaitable[Source]]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def connect(serve_bot: Any, client: aiohttp.ClientSession) -> Connect:
    """A source connected to a bot of the given plugin; keywords are settings of the connector."""

    async def connect(plugin: Plugin, **settings: Any) -> Source:
        entry = {"type": "webhook", "name": "shop", "secret": SECRET} | settings
        return Source(await serve_bot(plugin, entry), client)

    return connect


def echo() -> tuple[Plugin, list[Message]]:
    plugin, seen = Plugin("echo"), list[Message]()

    @plugin.message()
    async def answer(message: Message) -> Reply:
        seen.append(message)
        return Reply(f"echo {message.text}", source="manual.md")

    return plugin, seen


def held() -> tuple[Plugin, asyncio.Event, asyncio.Queue[str]]:
    """A plugin that tells what it got at once and answers only when the event is set."""
    plugin, gate, seen = Plugin("held"), asyncio.Event(), asyncio.Queue[str]()

    @plugin.message()
    async def answer(message: Message) -> str:
        seen.put_nowait(message.text)
        await gate.wait()
        return f"late {message.text}"

    return plugin, gate, seen


# -- signatures -----------------------------------------------------------------------------


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=256),
    st.binary(),
    st.data(),
)
def test_what_is_signed_is_accepted_and_any_change_of_it_is_not(
    message_id: str, body: bytes, data: Any
) -> None:
    headers = Signer([SECRET]).sign(message_id, body, now=1000)
    assert Signer([OTHER, SECRET]).verify(headers, body, now=1000) == message_id
    changed = data.draw(st.binary().filter(lambda other: other != body))
    for wrong, name in ((changed, "webhook-id"), (body, "webhook-id"), (body, "webhook-signature")):
        altered = headers if wrong is changed else headers | {name: headers[name] + "x"}
        with pytest.raises(SignatureError):
            Signer([SECRET]).verify(altered, wrong, now=1000)


@given(st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()))
def test_no_header_brings_more_than_a_signature_error(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureError):
        Signer([SECRET]).verify(headers, b"{}")


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_five_minutes_either_way_are_tolerated(seconds: int) -> None:
    assert Signer([SECRET]).verify(Signer([SECRET]).sign("m", b"", now=1000), b"", now=1000 + seconds) == "m"


def test_the_reference_library_accepts_what_is_signed() -> None:
    headers = Signer([SECRET]).sign("msg_1", '{"文":1}'.encode())
    assert PeerSigner(SECRET).verify('{"文":1}', headers) == {"文": 1}


BODY = question()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(BODY, secret=OTHER),
        signed(BODY + b" "),
        signed(BODY, at=time.time() - 360),
        signed(BODY, at=time.time() + 900),
        signed(BODY) | {"webhook-timestamp": "NaN"},
        signed(BODY) | {"webhook-timestamp": f"{int(time.time())}.5"},
        signed(BODY) | {"webhook-timestamp": "１７０００００００"},
        signed(BODY) | {"webhook-id": "msg_other"},
        signed(BODY) | {"webhook-id": ""},
        signed(BODY) | {"webhook-signature": signed(BODY)["webhook-signature"].removeprefix("v1,")},
        signed(BODY) | {"webhook-signature": "v1,"},
        signed(BODY) | {"webhook-signature": "v1,x,y v1 v2,z"},
    ],
)
async def test_what_is_not_rightly_signed_is_401(connect: Connect, headers: dict[str, str]) -> None:
    plugin, seen = echo()
    source = await connect(plugin)
    status, answer = await source.post(BODY, headers)
    assert (status, list(answer)) == (401, ["error"])
    assert not seen


async def test_any_secret_and_any_v1_entry_will_do(connect: Connect) -> None:
    plugin, _ = echo()
    source = await connect(plugin, secret=[SECRET, OTHER])
    assert (await source.post(BODY, signed(BODY, secret=OTHER)))[0] == 200
    headers = signed(BODY)
    headers["webhook-signature"] = f"v1a,AAAA v1,{'A' * 43}= {headers['webhook-signature']}"
    assert (await source.post(BODY, headers))[0] == 200


# -- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"not json", None),
        (b"\xff\xfe{}", None),
        (b"[]", None),
        (b"[" * 100_000, None),
        (b"", None),
        (question(type="reply"), "type"),
        (b'{"chat_id":"c","user_id":"u","text":"x"}', "type"),
        (question(text=5), "text"),
        (question(text=None), "text"),
        (question(chat_id=""), "chat_id"),
        (question(chat_id="a\x1fb"), "chat_id"),
        (question(user_id=7), "user_id"),
        (question(user_id="u" * 129), "user_id"),
        (question(group="yes"), "group"),
        (question(mentioned=1), "mentioned"),
    ],
)
async def test_a_signed_body_of_the_wrong_shape_is_400_and_names_the_field(
    connect: Connect, body: bytes, field: str | None
) -> None:
    plugin, seen = echo()
    source = await connect(plugin)
    status, answer = await source.post(body, Signer([SECRET]).sign("m1", body))
    assert status == 400
    assert answer.get("field") == field
    assert not seen
    assert (await source.post(question("still here")))[0] == 200


async def test_too_much_is_413_however_it_is_sent(connect: Connect) -> None:
    plugin, _ = echo()
    source = await connect(plugin)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"A" * 65_536

    for body in (io.BytesIO(b"A" * (2 << 20)), chunks()):
        status, _ = await source.post(body, signed(b""))
        assert status == 413


async def test_what_no_store_can_hold_is_replaced(connect: Connect) -> None:
    plugin, seen = echo()
    source = await connect(plugin)
    body = b'{"type":"message","chat_id":"c","user_id":"u","text":"a\\u0000b\\ud800c"}'
    status, answer = await source.post(body)
    assert (status, answer["replies"][0]["text"]) == (200, "echo a\ufffdb\ufffdc")
    assert seen[0].text == "a\ufffdb\ufffdc"


async def test_unknown_fields_are_ignored_and_groups_understood(connect: Connect) -> None:
    plugin, seen = echo()
    source = await connect(plugin)
    body = question(group=True, mentioned=False, shade="blue")
    assert (await source.post(body))[1]["replies"] == []
    assert (await source.post(question(group=True)))[1]["replies"]
    assert [message.chat.group for message in seen] == [True]


class Refusing:
    """A core that takes nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def receive(self, message: Message) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "seconds"), [(Overloaded(7.2), "8"), (StoreError("disk full"), "5")])
async def test_what_is_not_committed_is_503_with_a_time_to_come_back(
    client: aiohttp.ClientSession, error: Exception, seconds: str
) -> None:
    webhook = Webhook(WebhookSettings(name="shop", secret=SECRET), max_body=1 << 20)
    app = web.Application()
    app.add_routes(webhook.routes())
    async with TestServer(app) as server:
        url = server.make_url("/webhook/shop")
        for headers in (signed(BODY), signed(BODY)):
            async with client.post(url, data=BODY, headers=headers) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] in ("5", seconds)
            await webhook.start(Refusing(error))  # type: ignore[arg-type]
        assert response.headers["Retry-After"] == seconds


# -- without reply_url ----------------------------------------------------------------------


async def test_the_answer_comes_back_with_its_sources(connect: Connect) -> None:
    plugin, _ = echo()
    source = await connect(plugin)
    body = question("运费？")
    headers = signed(body)
    assert await source.post(body, headers) == (
        200,
        {"id": headers["webhook-id"], "replies": [{"text": "echo 运费？", "sources": ["manual.md"]}]},
    )


async def test_a_repeated_id_gets_the_first_outcome_and_is_handled_once(connect: Connect) -> None:
    plugin, seen = echo()
    source = await connect(plugin)
    first = await source.post(BODY, signed(BODY, id="again"))
    later = question("something else")
    assert await source.post(later, signed(later, id="again")) == first
    copies = await asyncio.gather(*(source.post(BODY, signed(BODY, id="many")) for _ in range(20)))
    assert all(copy == copies[0] for copy in copies)
    assert len(seen) == 2


async def test_a_late_answer_is_202_and_can_be_fetched(connect: Connect) -> None:
    plugin, gate, seen = held()
    source = await connect(plugin, wait=0.05)
    assert await source.post(BODY, signed(BODY, id="a/b_c?")) == (202, {"id": "a/b_c?"})
    assert (await source.fetch("a%2Fb_c%3F"))[0] == 202
    gate.set()
    status, answer = 202, dict[str, Any]()
    while status == 202:
        status, answer = await source.post(BODY, signed(BODY, id="a/b_c?"))
    assert answer["replies"] == [{"text": "late hi", "sources": []}]
    assert await source.fetch("a%2Fb_c%3F") == (200, answer)
    assert seen.qsize() == 1


async def test_replies_need_a_signature_and_a_known_id(connect: Connect) -> None:
    plugin, _ = echo()
    source = await connect(plugin)
    await source.post(BODY, signed(BODY, id="known"))
    assert (await source.fetch("known", {}))[0] == 401
    assert (await source.fetch("known", signed(b"", secret=OTHER)))[0] == 401
    assert (await source.fetch("unknown"))[0] == 404


async def test_a_client_that_leaves_does_not_stop_the_turn(connect: Connect) -> None:
    plugin, gate, seen = held()
    source = await connect(plugin)
    waiting = asyncio.create_task(source.post(BODY, signed(BODY, id="left")))
    assert await seen.get() == "hi"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    status, answer = await source.post(BODY, signed(BODY, id="left"))
    assert (status, answer["replies"][0]["text"], seen.qsize()) == (200, "late hi", 0)


# -- with reply_url -------------------------------------------------------------------------


class Receiver:
    """The other end of reply_url; `answers` are the statuses it gives, then always 204."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.received: asyncio.Queue[tuple[dict[str, str], dict[str, Any]]] = asyncio.Queue()
        app = web.Application()
        app.add_routes([web.post("/replies", self.take), web.post("/elsewhere", self.take)])
        self.server = TestServer(app)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        content = PeerSigner(SECRET).verify(body, dict(request.headers))
        await self.received.put((dict(request.headers), content))
        return self.answers.pop(0) if self.answers else web.Response(status=204)

    @property
    def url(self) -> str:
        return str(self.server.make_url("/replies"))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with receiver.server:
        yield receiver


async def test_replies_are_posted_signed_part_by_part(connect: Connect, receiver: Receiver) -> None:
    plugin = Plugin("long")

    @plugin.message()
    async def answer(message: Message) -> Reply:
        return Reply("一句话。" * 1500, source="manual.md")

    source = await connect(plugin, reply_url=receiver.url)
    assert await source.post(BODY, signed(BODY, id="q1")) == (202, {"id": "q1"})
    parts = [await receiver.received.get() for _ in range(2)]
    assert [content["final"] for _, content in parts] == [False, True]
    assert "".join(content["text"] for _, content in parts) == "一句话。" * 1500
    for headers, content in parts:
        assert headers["webhook-id"] == content["id"]
        assert int(headers["Content-Length"]) < 20_000
        assert {key: content[key] for key in ("type", "in_reply_to", "chat_id", "user_id", "sources")} == {
            "type": "reply",
            "in_reply_to": "q1",
            "chat_id": "c1",
            "user_id": "u1",
            "sources": ["manual.md"],
        }
    assert await source.post(BODY, signed(BODY, id="q1")) == (202, {"id": "q1"})
    assert receiver.received.empty()


def outgoing() -> Outgoing:
    return Outgoing(Target("webhook", "shop", "c1", user="u1", delivery="q1"), "hello", key="k1")


@pytest.fixture
async def sender(receiver: Receiver) -> AsyncIterator[Webhook]:
    settings = WebhookSettings(name="shop", secret=[SECRET, OTHER], reply_url=receiver.url)
    webhook = Webhook(settings, max_body=1 << 20)
    yield webhook
    await webhook.close()


async def test_a_resend_carries_the_same_id(sender: Webhook, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=500)]
    with pytest.raises(ConnectorError) as failed:
        await sender.send(outgoing())
    assert (failed.value.code, failed.value.retry_after) == (500, None)
    await sender.send(outgoing())
    first, second = [await receiver.received.get() for _ in range(2)]
    assert first[0]["webhook-id"] == second[0]["webhook-id"] == "k1"
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "17", 17),
        (503, "0", 1),
        (502, "99999999999999", 3600),
        (504, "Wed, 21 Oct 2015 07:28:00 GMT", 1),
        (503, "soon", None),
        (500, "17", None),
        (404, None, None),
    ],
)
async def test_a_busy_receiver_says_when(
    sender: Webhook, receiver: Receiver, status: int, header: str | None, seconds: float | None
) -> None:
    receiver.answers = [web.Response(status=status, headers={"Retry-After": header} if header else {})]
    with pytest.raises(ConnectorError) as failed:
        await sender.send(outgoing())
    assert not isinstance(failed.value, Undeliverable)
    assert failed.value.retry_after == seconds


async def test_gone_is_for_good_and_redirects_are_not_followed(sender: Webhook, receiver: Receiver) -> None:
    receiver.answers = [
        web.Response(status=410),
        web.Response(status=307, headers={"Location": "/elsewhere"}),
    ]
    with pytest.raises(Undeliverable):
        await sender.send(outgoing())
    with pytest.raises(ConnectorError) as failed:
        await sender.send(outgoing())
    assert failed.value.code == 307
    assert receiver.received.qsize() == 2


async def test_a_receiver_out_of_reach_shows_in_the_status_until_it_is_back(receiver: Receiver) -> None:
    settings = WebhookSettings(name="shop", secret=SECRET, reply_url="http://127.0.0.1:9/")
    webhook = Webhook(settings, max_body=1 << 20)
    await webhook.start(Refusing(Overloaded()))  # type: ignore[arg-type]
    with pytest.raises(ConnectorError):
        await webhook.send(outgoing())
    assert webhook.status.state == "retrying"
    assert "127.0.0.1" not in webhook.status.detail
    webhook._reply_url = receiver.url
    await webhook.send(outgoing())
    assert (webhook.status.state, webhook.status.detail) == ("ok", "")
    await webhook.close()


def test_retries_are_quick_first_and_then_ever_rarer() -> None:
    assert RETRIES[0] <= 1
    assert list(RETRIES) == sorted(RETRIES)


async def test_connections_to_the_receiver_are_used_again(sender: Webhook, receiver: Receiver) -> None:
    ports = set()

    async def take(request: web.Request) -> web.Response:
        ports.add(request.transport.get_extra_info("peername")[1])  # type: ignore[union-attr]
        return web.json_response({"ok": True})

    app = web.Application()
    app.add_routes([web.post("/", take)])
    async with TestServer(app) as server:
        sender._reply_url = str(server.make_url("/"))
        for _ in range(5):
            await sender.send(outgoing())
    assert len(ports) == 1
