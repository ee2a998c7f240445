"""WeCom's side of an intelligent robot, and whole bots for it to ask."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import bot.app
import bot.outbox
from bot import Message, Plugin, Reply
from bot.app import App
from bot.catalogue import Catalogue
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.config_connectors import WecomAibotSettings
from bot.connectors.wecom.aibot import Aibot, Patience
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.client import Http
from bot.connectors.wecom.crypto import Crypto
from bot.loader import Loaded, Plugins
from bot.metrics import Metrics
from bot.yaml_source import YamlSource
from tests.bot.connectors.wecom.qyapi import Call, FakeQyApi, Refusal

KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
CRYPTO = Crypto("tok", KEY, "")
HERE = "/wecom-aibot/robot"
METHOD = "aibot/response"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(9)
PROMPT = Patience(quick=5.0, welcome=5.0, gone=5.0)
"""For answers that are there at once, however slow the machine is."""
QUICK = Patience(quick=0.15, welcome=0.3, gone=0.3)
"""For answers that come later, or that nobody fetches."""
WAIT = 5.0
names = (f"m-{number}" for number in itertools.count())
Stream = dict[str, Any]


class WeCom:
    """WeCom's side of one robot: it asks, and asks again until an answer is finished."""

    def __init__(self, base: str, client: aiohttp.ClientSession, api_base: str) -> None:
        self.url = base + HERE
        self.client = client
        self.api_base = api_base

    async def post(self, body: object) -> tuple[int, dict[str, Any]]:
        """(status, decrypted answer or {})."""
        plain = body if isinstance(body, bytes) else json.dumps(body).encode()
        encrypted, signature = CRYPTO.seal(plain, "1700000000", "n-1")
        query = {"msg_signature": signature, "timestamp": "1700000000", "nonce": "n-1"}
        async with self.client.post(self.url, params=query, json={"encrypt": encrypted}) as response:
            self.headers = response.headers
            data = await response.read()
        if response.status != 200 or not data:
            return response.status, {}
        sealed = json.loads(data)
        assert sealed["nonce"] == "n-1"
        answer = CRYPTO.open(
            sealed["msgsignature"], str(sealed["timestamp"]), sealed["nonce"], sealed["encrypt"]
        )
        return response.status, json.loads(answer)

    def message(self, text: str = "hi", user: str = "zhang", group: str = "", **changes: Any) -> Stream:
        msgid = next(names)
        place = {"chattype": "group", "chatid": group} if group else {"chattype": "single"}
        return {
            "msgid": msgid,
            "aibotid": "AIBOT",
            "from": {"userid": user},
            "response_url": f"{self.api_base}/cgi-bin/{METHOD}?response_code={msgid}",
            "msgtype": "text",
            "text": {"content": text},
            **place,
            **changes,
        }

    def event(self, kind: str, **content: Any) -> dict[str, Any]:
        return self.message(msgtype="event", event={"eventtype": kind, kind: content})

    async def ask(self, text: str = "hi", **changes: Any) -> Stream:
        """The stream that a message is answered by, {} for none."""
        status, answer = await self.post(self.message(text, **changes))
        assert status == 200
        assert not answer or answer["msgtype"] == "stream"
        return answer.get("stream", {})

    async def refresh(self, name: str) -> Stream:
        status, answer = await self.post({"msgid": next(names), "msgtype": "stream", "stream": {"id": name}})
        assert status == 200
        stream: Stream = answer["stream"]
        assert stream["id"] == name
        return stream

    async def shows(self, stream: Stream, content: str) -> Stream:
        """The unfinished stream once it shows this."""
        async with asyncio.timeout(WAIT):
            while stream["content"] != content:
                assert not stream["finish"]
                await asyncio.sleep(0.03)
                stream = await self.refresh(stream["id"])
        return stream

    async def follow(self, stream: Stream) -> Stream:
        """The stream once it is finished."""
        async with asyncio.timeout(WAIT):
            while not stream["finish"]:
                await asyncio.sleep(0.03)
                stream = await self.refresh(stream["id"])
        return stream


class Robot:
    """A running bot with one robot."""

    def __init__(self, app: App, connector: Aibot, metrics: Metrics, wecom: WeCom) -> None:
        self.app, self.connector, self.metrics, self.wecom = app, connector, metrics, wecom

    async def settled(self) -> None:
        """Everything the bot said is sent or given up."""
        async with asyncio.timeout(WAIT):
            while self.app.dispatch.lanes or self.app.outbox.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def outcome(self) -> dict[str, float]:
        """How sends ended, once all have."""
        await self.settled()
        counts = {
            outcome: self.app.metrics.registry.get_sample_value(
                "glmbot_sends_total", {"connector": "robot", "outcome": outcome}
            )
            for outcome in ("sent", "retried", "failed")
        }
        return {outcome: count for outcome, count in counts.items() if count}

    def held(self, reason: str) -> float | None:
        """How many answers had to wait for a limit."""
        return self._counted("glmbot_sends_held_total", reason)

    def lost(self, reason: str) -> float | None:
        """How many answers nobody was shown, or not all of them."""
        return self._counted("glmbot_sends_lost_total", reason)

    def _counted(self, name: str, reason: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"connector": "robot", "reason": reason})


Serve = Callable[..., Awaitable[Robot]]


def connector_of(api_base: str, metrics: Metrics, patience: Patience = PROMPT, **settings: Any) -> Aibot:
    entry = {"name": "robot", "token": "tok", "aes_key": KEY, "robot_name": "RobotA", "api_base": api_base}
    return Aibot(
        WecomAibotSettings(**(entry | settings)),
        callback=Callback(CRYPTO, max_body=1 << 20),
        crypto=CRYPTO,
        http=Http(),
        catalogue=Catalogue.load(),
        language="auto",
        metrics=metrics,
        patience=patience,
    )


def once_only(qyapi: FakeQyApi) -> None:
    """A response_url takes one message."""
    used: set[str] = set()

    def take(call: Call) -> dict[str, Any]:
        code = call.query["response_code"]
        if code in used:
            raise Refusal(40058, "response_code used")
        used.add(code)
        return {}

    qyapi.answers[METHOD] = take


@asynccontextmanager
async def serving(folder: Path, api_base: str, qyapi: FakeQyApi) -> AsyncIterator[Serve]:
    """A function that starts bots of one plugin on one database file; a stopping one waits for little."""
    apps: list[App] = []
    once_only(qyapi)

    async def start(plugin: Plugin, patience: Patience = PROMPT, **settings: Any) -> Robot:
        data = {
            "server": {"port": 0},
            "store": {"url": f"sqlite+aiosqlite:///{folder / 'bot.db'}"},
            "plugins": {plugin.name: {}},
        }
        loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
        own = Loaded(plugin, validate_plugin_config(plugin.config, loaded, plugin.name), "test")
        metrics = Metrics()
        connector = connector_of(api_base, metrics, patience, **settings)
        app = App(loaded, connectors=[connector], plugins=Plugins([own]))
        await app.start()
        apps.append(app)
        assert app.server is not None
        return Robot(app, connector, metrics, WeCom(f"http://127.0.0.1:{app.server.port}", client, api_base))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bot.app, "DRAIN_SECONDS", 0.5)
        patch.setattr(bot.outbox, "STALLED", 0.2)
        patch.setattr(bot.outbox, "LAST_CALLS", 0.1)
        async with aiohttp.ClientSession() as client:
            yield start
            for app in apps:
                await app.stop()


def echo() -> tuple[Plugin, list[Message]]:
    """Answers at once."""
    plugin, seen = Plugin("echo"), list[Message]()

    @plugin.message()
    async def answer(message: Message) -> Reply:
        seen.append(message)
        return Reply(f"echo {message.text}", feedback=message.text == "rate")

    return plugin, seen


def held(reply: Reply | str | None = "late answer") -> tuple[Plugin, asyncio.Event]:
    """Answers once the event is set."""
    plugin, gate = Plugin("held"), asyncio.Event()

    @plugin.middleware()
    async def answer(message: Message) -> Reply | str | None:
        await gate.wait()
        return reply

    return plugin, gate


def posted(qyapi: FakeQyApi) -> list[str]:
    """The answers that went to a response_url."""
    return [payload["markdown"]["content"] for payload in qyapi.of(METHOD)]
