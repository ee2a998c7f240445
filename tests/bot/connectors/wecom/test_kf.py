"""An account as the core and the platform see it: its route, its life, and a whole bot behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from bot import Channels, Message, Plugin, Reply
from bot.app import App
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.connectors.base import Connector, MediaSource
from bot.connectors.wecom import xml
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.crypto import Crypto
from bot.connectors.wecom.kf import Kf
from bot.errors import ConnectorError
from bot.loader import Loaded, Plugins
from bot.message import Segment
from bot.reply import Target
from bot.yaml_source import YamlSource
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, Stage, event, part, said, staged
from tests.bot.connectors.wecom.qyapi import CORP, KF, WAIT

CRYPTO = Crypto("tok", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C", CORP)
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


# ---- the route of its own ------------------------------------------------------------------


@pytest.fixture
async def visit() -> AsyncIterator[Callable[[Kf], Awaitable[Client]]]:
    """Serves an account's routes."""
    clients: list[Client] = []

    async def serve(kf: Kf) -> Client:
        app = web.Application()
        app.add_routes(kf.routes())
        clients.append(TestClient(TestServer(app, host="127.0.0.1")))
        await clients[-1].start_server()
        return clients[-1]

    yield serve
    for client in clients:
        await client.close()


Visit = Callable[[Kf], Awaitable[Client]]


async def call(client: Client, plain: bytes, *, signature: str = "") -> int:
    """Post to an account's route as WeCom does; returns the status."""
    stamp = str(int(time.time()))
    encrypted, signed = CRYPTO.seal(plain, stamp, "nonce")
    query = {"msg_signature": signature or signed, "timestamp": stamp, "nonce": "nonce"}
    body = xml.build({"ToUserName": CORP, "Encrypt": encrypted})
    response = await client.post("/wecom-kf/care", params=query, data=body)
    return response.status


def told(token: str, kf_id: str = KF, kind: str = "kf_msg_or_event") -> bytes:
    return xml.build({"MsgType": "event", "Event": kind, "Token": token, "OpenKfId": kf_id})


def test_without_a_token_of_its_own_an_account_has_no_route(stage: Stage) -> None:
    assert list(stage.build().routes()) == []


async def test_a_call_is_acknowledged_at_once_and_pulled_for(stage: Stage, visit: Visit) -> None:
    kf = await stage.connect(callback=Callback(CRYPTO, max_body=1 << 20))
    gate = stage.platform.gates["kf/sync_msg"] = asyncio.Event()
    stage.platform.event_tokens.add("T1")
    stage.platform.say(said("hello"))
    client = await visit(kf)
    assert await call(client, told("T1")) == 200
    assert (await stage.platform.called("kf/sync_msg", 2))[1]["token"] == "T1"
    gate.set()
    await stage.inlet.got(1)


async def test_the_url_is_verified(stage: Stage, visit: Visit) -> None:
    client = await visit(stage.build(callback=Callback(CRYPTO, max_body=1 << 20)))
    encrypted, signature = CRYPTO.seal("1616 中文".encode(), "1700000000", "n")
    query = {"msg_signature": signature, "timestamp": "1700000000", "nonce": "n", "echostr": encrypted}
    response = await client.get("/wecom-kf/care", params=query)
    assert (response.status, await response.text()) == (200, "1616 中文")


@pytest.mark.parametrize(
    "plain", [told("T", "wkOther"), told("T", kind="future"), b"<no xml", b"", b"<xml/>"]
)
async def test_what_is_not_for_the_account_is_acknowledged_logged_and_forgotten(
    stage: Stage, visit: Visit, plain: bytes
) -> None:
    kf = await stage.connect(callback=Callback(CRYPTO, max_body=1 << 20))
    client = await visit(kf)
    with capture_logs() as logs:
        assert await call(client, plain) == 200
    assert len([line for line in logs if "callback" in line["event"]]) == 1
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/sync_msg")) == 1


async def test_a_bad_signature_wakes_nobody(stage: Stage, visit: Visit) -> None:
    kf = await stage.connect(callback=Callback(CRYPTO, max_body=1 << 20))
    assert await call(await visit(kf), told("T"), signature="0" * 40) == 403
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/sync_msg")) == 1


# ---- its life ------------------------------------------------------------------------------


async def test_it_says_how_pulling_goes(stage: Stage) -> None:
    stage.platform.refuse("kf/sync_msg", 95000)
    kf: Connector = stage.build()
    assert kf.status.state == "starting"
    await kf.start(stage.inlet)
    async with asyncio.timeout(WAIT):
        while kf.status.state == "starting":  # noqa: ASYNC110 - a status has no event
            await asyncio.sleep(0.005)
    assert kf.status.state == "retrying"
    assert "95000" in kf.status.detail
    await kf.stop()
    assert kf.status.state == "stopped"


async def test_once_stopped_it_pulls_nothing_and_still_sends(stage: Stage) -> None:
    kf = await stage.connect()
    await kf.stop()
    stage.platform.say(said("too late"))
    stage.wake(kf)
    await kf.send(part("an answer from before"))
    assert len(stage.platform.of("kf/sync_msg")) == 1
    assert stage.inlet.messages == []


async def test_after_the_close_nothing_can_be_sent(stage: Stage) -> None:
    kf = stage.build()
    await kf.close()
    with pytest.raises(ConnectorError):
        await kf.send(part())


async def test_what_only_other_platforms_show_is_not_shown(stage: Stage) -> None:
    kf = stage.build()
    target = Target("wecom-kf", "care", CUSTOMER)
    await kf.typing(target)
    assert await kf.progress(target, "so far", None) is None
    assert stage.platform.calls == []


async def test_a_customers_medium_can_be_fetched(stage: Stage) -> None:
    kf = stage.build()
    assert isinstance(kf, MediaSource)
    stage.platform.media["M1"] = ("photo.jpg", b"a photo")
    assert await kf.fetch(Segment("image", ref="M1"), 1000) == b"a photo"
    with pytest.raises(ConnectorError):
        await kf.fetch(Segment("image", ref="M1"), 3)
    with pytest.raises(ConnectorError):
        await kf.fetch(Segment("image", ref="M2"), 1000)


# ---- a whole bot ---------------------------------------------------------------------------


@pytest.fixture
def shop() -> Plugin:
    """Answers, welcomes, hands over, and is silent while a human has the talk."""
    plugin = Plugin("shop")
    away: set[str] = set()

    @plugin.message()
    async def answer(message: Message, channels: Channels) -> Reply | str | None:
        if message.user.id in away:
            return None
        if message.text == "转人工":
            await channels.hand_over(message)
            away.add(message.user.id)
            return "请稍候"
        return Reply(f"answer to {message.text}", feedback=True)

    @plugin.event("session")
    async def session(message: Message) -> None:
        (away.add if message.data["holder"] in ("waiting", "people") else away.discard)(message.user.id)

    @plugin.event("entered")
    async def entered() -> str:
        return "welcome"

    return plugin


@pytest.fixture
async def run(stage: Stage, shop: Plugin) -> AsyncIterator[Callable[[], Awaitable[Kf]]]:
    """Starts a bot with one account, on one database for cursors and another for the rest."""
    apps: list[App] = []

    async def start() -> Kf:
        data = {"store": {"url": "sqlite+aiosqlite:///:memory:"}, "plugins": {"shop": {}}, "connectors": []}
        loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
        plugins = Plugins([Loaded(shop, validate_plugin_config(shop.config, loaded, "shop"), "test")])
        kf = stage.build()
        apps.append(App(loaded, connectors=[kf], plugins=plugins, serve=False))
        await apps[-1].start()
        return kf

    yield start
    for app in apps:
        await app.stop()


Run = Callable[[], Awaitable[Kf]]


async def test_five_customers_are_answered_once_each_over_four_pages(stage: Stage, run: Run) -> None:
    kf = await run()
    stage.platform.kf_page = 2
    customers = [f"wm{number}" for number in range(5)]
    stage.platform.say(*(said("hours?", customer) for customer in customers))
    stage.platform.say(said("staff says hi", "wm0", origin=5), event("enter_session", "wm0"))
    for _ in range(3):
        stage.wake(kf)
        await stage.platform.called("kf/send_msg", 5)
    await asyncio.sleep(0.1)
    answers = stage.platform.of("kf/send_msg")
    assert sorted(call["touser"] for call in answers) == customers
    assert {call["msgmenu"]["head_content"] for call in answers} == {"answer to hours?"}


async def test_a_newcomer_is_welcomed_by_the_code(stage: Stage, run: Run) -> None:
    kf = await run()
    stage.platform.codes["C1"] = False
    stage.platform.say(event("enter_session", welcome_code="C1"))
    stage.wake(kf)
    (welcome,) = await stage.platform.called("kf/send_msg_on_event", 1)
    assert (welcome["code"], welcome["text"]) == ("C1", {"content": "welcome"})


async def test_a_customer_who_wants_a_human_gets_a_notice_and_then_silence_until_the_end(
    stage: Stage, run: Run
) -> None:
    kf = await run()
    stage.platform.say(said("转人工"))
    stage.wake(kf)
    (notice,) = await stage.platform.called("kf/send_msg_on_event", 1)
    assert notice["text"] == {"content": "请稍候"}
    assert stage.platform.kf_states == {CUSTOMER: 2}

    stage.platform.say(said("anybody there?"), said("hours?", "wmOther"))
    stage.wake(kf)
    (other,) = await stage.platform.called("kf/send_msg", 1)
    await asyncio.sleep(0.1)
    assert other["touser"] == "wmOther"
    assert len(stage.platform.of("kf/send_msg")) == 1

    stage.platform.kf_states[CUSTOMER] = 0
    stage.platform.say(event("session_status_change", change_type=3), said("hours?"))
    stage.wake(kf)
    calls = await stage.platform.called("kf/send_msg", 2)
    assert (calls[1]["touser"], calls[1]["msgmenu"]["head_content"]) == (CUSTOMER, "answer to hours?")


async def test_a_bot_that_missed_a_handover_learns_of_it_by_the_first_refusal(stage: Stage, run: Run) -> None:
    kf = await run()
    stage.platform.kf_states[CUSTOMER] = 3
    stage.platform.say(said("one"))
    stage.wake(kf)
    await stage.platform.called("kf/service_state/get", 1)
    await asyncio.sleep(0.1)
    stage.platform.say(said("two"), said("hello", "wmOther"))
    stage.wake(kf)
    await stage.platform.called("kf/send_msg", 2)
    await asyncio.sleep(0.1)
    assert [call["touser"] for call in stage.platform.of("kf/send_msg")] == [CUSTOMER, "wmOther"]
