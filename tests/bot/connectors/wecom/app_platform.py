"""An application in a whole bot, and the WeCom that calls it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp

from bot import Plugin
from bot.app import App as Bot
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.config_connectors import WecomAppSettings
from bot.connectors.wecom import xml
from bot.connectors.wecom.api import Http, QyApi
from bot.connectors.wecom.app import App
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.crypto import Crypto
from bot.connectors.wecom.token import AccessToken
from bot.loader import Loaded, Plugins
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from bot.yaml_source import YamlSource
from tests.bot.connectors.wecom.qyapi import AGENT, CORP, SECRET

TOKEN, AES_KEY = "tok", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
CRYPTO = Crypto(TOKEN, AES_KEY, CORP)
numbers = count(7600000000000000001)


def application(api_base: str, **settings: Any) -> tuple[App, Metrics]:
    """A connector called `desk` that is not started; keywords are settings."""
    given = {"corp_id": CORP, "agent_id": AGENT, "secret": SECRET, "token": TOKEN, "aes_key": AES_KEY}
    entry = WecomAppSettings.model_validate({"name": "desk", "api_base": api_base, **given, **settings})
    http, metrics = Http(), Metrics()
    token = AccessToken(http, entry.api_base, CORP, entry.secret)
    callback = Callback(CRYPTO, max_body=1 << 16)
    return App(entry, callback=callback, api=QyApi(http, entry.api_base, token), metrics=metrics), metrics


def part(text: str = "Answer", chat: str = "zhangsan", **given: Any) -> Outgoing:
    return Outgoing(Target("wecom-app", "desk", chat), text, "k", **given)


def text(content: str, user: str = "zhangsan", **changes: str | int | None) -> dict[str, str | int]:
    """The fields of a text; keywords change some, or take them out by None."""
    fields: dict[str, str | int | None] = {
        "ToUserName": CORP,
        "FromUserName": user,
        "CreateTime": int(time.time()),
        "MsgType": "text",
        "Content": content,
        "MsgId": next(numbers),
        "AgentID": AGENT,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def event(name: str, **changes: str | int | None) -> dict[str, str | int]:
    return text("", MsgType="event", Event=name, Content=None, MsgId=None, **changes)


@dataclass
class Wecom:
    """The platform's side of one callback URL."""

    url: str
    client: aiohttp.ClientSession

    async def post(
        self, message: Mapping[str, str | int] | bytes, **query: str
    ) -> tuple[int, dict[str, str]]:
        """Deliver a message; (status, the fields of the passive reply, if there is one)."""
        plain = message if isinstance(message, bytes) else xml.build(message)
        now, nonce = str(int(time.time())), f"n{next(numbers)}"
        encrypted, signature = CRYPTO.seal(plain, now, nonce)
        params = {"msg_signature": signature, "timestamp": now, "nonce": nonce, **query}
        body = xml.build({"ToUserName": CORP, "AgentID": AGENT, "Encrypt": encrypted})
        async with self.client.post(self.url, params=params, data=body) as response:
            content = await response.read()
        return response.status, _opened(content) if response.status == 200 and content else {}


def _opened(body: bytes) -> dict[str, str]:
    reply = xml.parse(body)
    plain = CRYPTO.open(reply["MsgSignature"], reply["TimeStamp"], reply["Nonce"], reply["Encrypt"])
    return xml.parse(plain)


@dataclass
class Running:
    """A bot with one application."""

    bot: Bot
    connector: App
    metrics: Metrics
    wecom: Wecom


@asynccontextmanager
async def running(plugin: Plugin, api_base: str, **settings: Any) -> AsyncIterator[Running]:
    """A bot of one plugin that answers as one application; keywords are the application's settings."""
    connector, metrics = application(api_base, **settings)
    data = {
        "server": {"port": 0},
        "store": {"url": "sqlite+aiosqlite:///:memory:"},
        "plugins": {plugin.name: {}},
        "connectors": [],
    }
    loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
    own = Loaded(plugin, validate_plugin_config(plugin.config, loaded, plugin.name), "test")
    bot = Bot(loaded, connectors=[connector], plugins=Plugins([own]))
    await bot.start()
    assert bot.server is not None
    try:
        async with aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{bot.server.port}/wecom-app/desk"
            yield Running(bot, connector, metrics, Wecom(url, client))
    finally:
        await bot.stop()
