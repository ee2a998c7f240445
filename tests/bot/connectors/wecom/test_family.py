"""What connectors that are built together share, and that each gets what its settings say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.catalogue import Catalogue
from bot.config_connectors import WecomAppSettings, WecomKfSettings, WecomRobotSettings, WecomSettings
from bot.connectors.base import Connector
from bot.connectors.wecom import family, xml
from bot.connectors.wecom.kf import Kf
from bot.connectors.wecom.pace import Limit
from bot.errors import ConnectorError
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from tests.bot.connectors.wecom.app_platform import AES_KEY, CRYPTO, TOKEN, event
from tests.bot.connectors.wecom.qyapi import AGENT, CORP, KEY, KF, SECRET, FakeQyApi

Build = Callable[..., dict[str, Connector]]
APP = {"corp_id": CORP, "agent_id": AGENT, "secret": SECRET, "token": TOKEN, "aes_key": AES_KEY}


def app(api_base: str, name: str = "desk", **changes: Any) -> WecomAppSettings:
    return WecomAppSettings.model_validate({"name": name, "api_base": api_base, **APP, **changes})


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    built: list[Connector] = []

    def make(*settings: WecomSettings) -> dict[str, Connector]:
        cursors: Any = None  # nothing is pulled
        connectors = family.build(
            settings,
            catalogue=Catalogue.load(),
            language="auto",
            max_body=1 << 16,
            metrics=Metrics(),
            cursors=cursors,
        )
        built.extend(connectors.values())
        return connectors

    yield make
    for connector in built:
        await connector.close()


def part(bot: str, kind: str = "wecom-app", chat: str = "zhangsan") -> Outgoing:
    return Outgoing(Target(kind, bot, chat), "Answer", "k")


async def test_connectors_of_one_secret_share_a_token(build: Build, api_base: str, qyapi: FakeQyApi) -> None:
    both = build(app(api_base, "one"), app(api_base, "two"))
    await asyncio.gather(*(both[name].send(part(name)) for name in both))
    assert len(qyapi.of("message/send")) == 2
    assert len(qyapi.of("gettoken")) == 1


async def test_the_limits_of_an_api_are_the_corps_whatever_the_secret(
    build: Build, api_base: str, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "BASE_LIMITS", (Limit(1, 60),))
    both = build(app(api_base, "one"), app(api_base, "two", secret="another secret"))
    await both["one"].send(part("one"))
    with pytest.raises(ConnectorError) as caught:
        await both["two"].send(part("two"))
    assert 0 < (caught.value.retry_after or 0) <= 60
    assert len(qyapi.of("message/send")) == 1


async def test_one_that_closes_takes_no_connections_from_the_others(
    build: Build, api_base: str, qyapi: FakeQyApi
) -> None:
    robot = WecomRobotSettings.model_validate({"name": "ops", "key": KEY, "api_base": api_base})
    kf = WecomKfSettings.model_validate({"name": "care", "kf_id": KF, "app": "one"})
    connectors = build(app(api_base, "one"), robot, app(api_base, "two"), kf)
    await connectors["one"].send(part("one"))
    for name in ("one", "care"):
        await connectors[name].close()
    await connectors["two"].send(part("two"))
    await connectors["ops"].send(part("ops", "wecom-robot", "group"))
    await connectors["ops"].close()
    await connectors["two"].close()
    with pytest.raises(ConnectorError, match="closed"):
        await connectors["two"].send(part("two"))


async def post(connector: Connector, fields: Mapping[str, str | int], stamp: float | None = None) -> int:
    """The status of a callback, from 127.0.0.1, to a connector by itself."""
    server = web.Application()
    server.add_routes(connector.routes())
    timestamp = str(int(time.time() if stamp is None else stamp))
    encrypted, signature = CRYPTO.seal(xml.build(fields), timestamp, "n")
    query = {"msg_signature": signature, "timestamp": timestamp, "nonce": "n"}
    async with TestServer(server, host="127.0.0.1") as running, aiohttp.ClientSession() as client:
        url = running.make_url(f"/{connector.kind}/{connector.name}")
        body = xml.build({"Encrypt": encrypted})
        async with client.post(url, params=query, data=body) as response:
            return response.status


@pytest.mark.parametrize(
    ("settings", "age", "status"),
    [
        ({}, 9000, 200),
        ({"callback_ips": ["127.0.0.0/8"], "replay_window": 300}, 0, 200),
        ({"callback_ips": ["10.0.0.0/8"]}, 0, 403),
        ({"replay_window": 300}, 9000, 403),
    ],
)
async def test_a_gate_is_as_narrow_as_its_settings_say(
    build: Build, api_base: str, settings: Mapping[str, Any], age: float, status: int
) -> None:
    desk = build(app(api_base, **settings))["desk"]
    inlet: Any = SimpleNamespace()
    await desk.start(inlet)
    assert await post(desk, event("view"), time.time() - age) == status
    await desk.stop()


async def test_events_of_an_account_reach_it_through_its_application(
    build: Build, api_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[tuple[str, str]] = []
    monkeypatch.setattr(Kf, "wake", lambda self, token: woken.append((self.name, token)))
    first = WecomKfSettings.model_validate({"name": "care", "kf_id": KF, "app": "desk"})
    second = WecomKfSettings.model_validate({"name": "sales", "kf_id": "wkOther", "app": "desk"})
    desk = build(first, app(api_base), second)["desk"]
    inlet: Any = SimpleNamespace()
    await desk.start(inlet)
    for account, token in (("wkOther", "T1"), (KF, "T2"), ("wkUnknown", "T3")):
        news = event("kf_msg_or_event", OpenKfId=account, Token=token, FromUserName=None, AgentID=None)
        assert await post(desk, news) == 200
    assert woken == [("sales", "T1"), ("care", "T2")]
    await desk.stop()
