"""Platforms played from outside: a signed source with its receiver, and Telegram's Bot API; both count."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
from aiohttp import web

KEY = b"a key that only tests know, and they tell"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOKEN = "4242424242:AAtest-token-of-nobody_0123456789abcde"
AGAIN_AFTER = 0.05


def signed(message_id: str, body: bytes) -> dict[str, str]:
    """Headers of Standard Webhooks, worked out independently of the bot's code."""
    stamp = str(int(time.time()))
    digest = hmac.new(KEY, b".".join((message_id.encode(), stamp.encode(), body)), hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        "content-type": "application/json",
    }


class News:
    """Lets a test wait until something it watches has become true."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def changed(self) -> None:
        """Wake those who wait."""
        async with self._condition:
            self._condition.notify_all()

    async def until(self, true: Callable[[], object], within: float = 30.0) -> None:
        """Wait for it; TimeoutError when it does not come true."""
        async with asyncio.timeout(within), self._condition:
            await self._condition.wait_for(true)


@asynccontextmanager
async def site(*routes: web.RouteDef, port: int = 0) -> AsyncIterator[str]:
    """An HTTP server on a port of the loopback, 0 for a free one; yields its base URL."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Reply:
    """One delivery to the receiver."""

    webhook_id: str
    text: str
    body: dict[str, Any]


class Receiver:
    """Takes the bot's replies.

    As real ones do at times, it turns the share `refuse` of the tries away, and takes up to `slow` seconds
    to confirm the others.
    """

    def __init__(self, chance: Random | None = None, *, refuse: float = 0.0, slow: float = 0.0) -> None:
        self.news = News()
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.by_chat: Counter[str] = Counter()
        self.forged = 0
        self.refused = 0
        self._chance = chance or Random(0)
        self._refuse = refuse
        self._slow = slow

    @asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator[str]:
        """Listen, on a free port unless one is given; yields the reply_url."""
        async with site(web.post("/replies", self._take), port=port) as base:
            yield base + "/replies"

    def answered(self, message_id: str) -> bool:
        """Whether a final reply to this message came."""
        return any(reply.body["final"] for reply in self.replies.get(message_id, ()))

    def ids(self, message_id: str) -> set[str]:
        """The distinct webhook-ids of the replies to one message."""
        return {reply.webhook_id for reply in self.replies.get(message_id, ())}

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        webhook_id, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        digest = hmac.new(KEY, f"{webhook_id}.{stamp}.".encode() + raw, hashlib.sha256).digest()
        if "v1," + base64.b64encode(digest).decode() not in request.headers["webhook-signature"].split(" "):
            self.forged += 1
            return web.Response(status=401)
        if self._chance.random() < self._refuse:
            self.refused += 1
            return web.Response(status=503, headers={"Retry-After": "1"})
        body = json.loads(raw)
        self.by_chat[body["chat_id"]] += webhook_id not in self.ids(body["in_reply_to"])
        self.replies[body["in_reply_to"]].append(Reply(webhook_id, body["text"], body))
        await self.news.changed()
        await asyncio.sleep(self._chance.uniform(0, self._slow))
        return web.Response(status=204)


class Source:
    """Posts signed messages, and posts again under the same id what was not acknowledged; tells `news`."""

    def __init__(self, url: str, client: aiohttp.ClientSession, news: News | None = None) -> None:
        self.acknowledged: dict[str, str] = {}
        self.resent = 0
        self._url = url
        self._client = client
        self._news = news or News()

    async def say(self, message_id: str, chat: str, text: str) -> None:
        """Deliver one message: returns once it is acknowledged."""
        fields = {"type": "message", "chat_id": chat, "user_id": f"user of {chat}", "text": text}
        body = json.dumps(fields, ensure_ascii=False).encode()
        while not await self._post(message_id, body):
            self.resent += 1
            await asyncio.sleep(AGAIN_AFTER)
        self.acknowledged[message_id] = text
        await self._news.changed()

    async def _post(self, message_id: str, body: bytes) -> bool:
        try:
            headers = signed(message_id, body)
            async with self._client.post(self._url, data=body, headers=headers) as response:
                await response.read()
                assert response.status in (200, 202) or response.status >= 500, await response.text()
                return response.status < 300
        except (aiohttp.ClientError, OSError):
            return False


@dataclass
class Shown:
    """A message that stands in a chat of the fake Telegram."""

    chat: int
    message_id: int
    texts: list[str]

    @property
    def text(self) -> str:
        """What it says after the last edit."""
        return self.texts[-1]


class BotApi:
    """The Bot API for one bot that polls: updates until they are confirmed, messages and their edits.

    It takes up to `slow` seconds to confirm a message, and knows drafts only if told so.
    """

    def __init__(self, chance: Random | None = None, *, slow: float = 0.0, drafts: bool = False) -> None:
        self.news = News()
        self.updates: dict[int, dict[str, Any]] = {}
        self.confirmed = 0
        self.messages: dict[int, Shown] = {}
        self._chance = chance or Random(0)
        self._slow = slow
        self._drafts = drafts
        self._next_update = 1000
        self._next_message = 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen; yields the api_base."""
        async with site(web.post("/bot{token}/{method}", self._call)) as base:
            yield base

    async def write(self, chat: int, text: str) -> int:
        """A user writes in a private chat (positive id) or a group (negative id); returns the update's id."""
        self._next_update += 1
        self._next_message += 1
        command = text.split(" ")[0]
        entities = [{"type": "bot_command", "offset": 0, "length": len(command)}] if text[0] == "/" else []
        self.updates[self._next_update] = {
            "update_id": self._next_update,
            "message": {
                "message_id": self._next_message,
                "date": int(time.time()),
                "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup", "title": "t"},
                "from": {"id": abs(chat), "is_bot": False, "first_name": "U", "language_code": "en"},
                "text": text,
                "entities": entities,
            },
        }
        await self.news.changed()
        return self._next_update

    def in_chat(self, chat: int) -> list[Shown]:
        """The bot's messages of one chat, in order."""
        return [message for message in self.messages.values() if message.chat == chat]

    async def _call(self, request: web.Request) -> web.Response:
        assert request.match_info["token"] == TOKEN
        params = await request.json()
        method = request.match_info["method"]
        if method == "getUpdates":
            return _ok(await self._get_updates(params))
        if method == "getMe":
            return _ok({"id": 4242424242, "is_bot": True, "first_name": "Bot", "username": "test_bot"})
        if method == "sendMessage":
            return _ok(await self._send(params))
        if method == "editMessageText":
            return await self._edit(params)
        if method == "sendMessageDraft" and not self._drafts:
            return _refused(404, "Not Found")
        return _ok(True)

    async def _get_updates(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        offset = int(params.get("offset", 0))
        confirmed = [number for number in self.updates if number < offset]
        for number in confirmed:
            del self.updates[number]
        if confirmed:
            self.confirmed += len(confirmed)
            await self.news.changed()
        if not self.updates:
            await self.news.changed()
            try:
                await self.news.until(lambda: self.updates, within=min(5.0, float(params.get("timeout", 0))))
            except TimeoutError:
                return []
        return list(self.updates.values())[: int(params.get("limit", 100))]

    async def _send(self, params: dict[str, Any]) -> dict[str, Any]:
        self._next_message += 1
        number = self._next_message
        self.messages[number] = Shown(int(params["chat_id"]), number, [params["text"]])
        await self.news.changed()
        await asyncio.sleep(self._chance.uniform(0, self._slow))
        return {"message_id": number, "date": int(time.time()), "chat": {"id": params["chat_id"]}}

    async def _edit(self, params: dict[str, Any]) -> web.Response:
        shown = self.messages.get(int(params["message_id"]))
        if shown is None or shown.chat != int(params["chat_id"]):
            return _refused(400, "Bad Request: message to edit not found")
        if shown.text == params["text"]:
            return _refused(400, "Bad Request: message is not modified")
        shown.texts.append(params["text"])
        await self.news.changed()
        return _ok({"message_id": shown.message_id, "date": int(time.time()), "chat": {"id": shown.chat}})


def _ok(result: object) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refused(code: int, description: str) -> web.Response:
    answer = {"ok": False, "error_code": code, "description": description}
    return web.json_response(answer, status=code)
