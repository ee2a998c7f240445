"""A small Bot API server, a core that only takes notes, and a connector between the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.catalogue import Catalogue
from bot.config_connectors import TelegramSettings
from bot.connectors.base import Outcome, Receipt
from bot.connectors.telegram import Telegram
from bot.message import Message
from bot.reply import Outgoing, Target
from bot.store.history import Round

TOKEN = "1234:TEST-token"
WAIT = 5.0


class FakeBotApi:
    """Long polling with offsets, strict about what Telegram is strict about, and failing on demand."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[tuple[str, web.Response | None]] = []
        self.queue: list[dict[str, Any]] = []
        self.messages: dict[tuple[int, int], dict[str, Any]] = {}
        self.migrated: dict[int, int] = {}
        self.missing: set[str] = set()
        self.hook = ""
        self.holds_polls = True
        self._changed = asyncio.Condition()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._handle)
        return app

    def fail(self, method: str, code: int, description: str = "no", **parameters: Any) -> None:
        """Refuse the next call of a method."""
        answer = {"ok": False, "error_code": code, "description": description, "parameters": parameters}
        self.failures.append((method, web.json_response(answer, status=code)))

    def cut(self, method: str) -> None:
        """Take the next call of a method, and let the connection break before the answer."""
        self.failures.append((method, None))

    async def push(self, *updates: dict[str, Any]) -> None:
        async with self._changed:
            self.queue += updates
            self._changed.notify_all()

    def of(self, method: str) -> list[dict[str, Any]]:
        return [params for name, params in self.calls if name == method]

    async def called(self, method: str, times: int = 1) -> list[dict[str, Any]]:
        """The calls of a method, once there are that many."""
        return await self.until(lambda: self.of(method) if len(self.of(method)) >= times else None)

    async def until(self, look: Callable[[], Any]) -> Any:
        """What `look` finds, waiting for calls until it is true."""
        async with asyncio.timeout(WAIT), self._changed:
            await self._changed.wait_for(look)
        return look()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method, params = request.match_info["method"], await request.json()
        async with self._changed:
            self.calls.append((method, params))
            self._changed.notify_all()
        for index, (name, response) in enumerate(self.failures):
            if name == method:
                del self.failures[index]
                if response is not None:
                    return response
                await getattr(self, f"_{name}")(params)
                assert request.transport is not None
                request.transport.abort()
        if request.match_info["token"] != TOKEN:
            return _error(401, "Unauthorized")
        if method in self.missing:
            return _error(404, "Not Found: method not found")
        answer = getattr(self, f"_{method}", None)
        return await answer(params) if answer else web.json_response({"ok": True, "result": True})

    async def _getMe(self, params: dict[str, Any]) -> web.Response:  # noqa: N802 - Telegram's name
        return _ok({"id": 1234, "is_bot": True, "username": "ShopBot"})

    async def _getUpdates(self, params: dict[str, Any]) -> web.Response:  # noqa: N802
        async with self._changed:
            self.queue = [item for item in self.queue if item["update_id"] >= params.get("offset", 0)]
            if self.holds_polls and not self.queue:
                try:
                    await asyncio.wait_for(self._changed.wait_for(lambda: self.queue), WAIT)
                except TimeoutError:
                    return _ok([])
            return _ok(self.queue[:100])

    async def _sendMessage(self, params: dict[str, Any]) -> web.Response:  # noqa: N802
        chat = params["chat_id"]
        if chat in self.migrated:
            return _error(400, "group chat was upgraded", migrate_to_chat_id=self.migrated[chat])
        if not params["text"].strip() or len(params["text"].encode("utf-16-le")) > 8192:
            return _error(400, "Bad Request: message text is empty or too long")
        number = len(self.messages) + 100
        self.messages[chat, number] = params
        return _ok({"message_id": number, "chat": {"id": chat}, "text": params["text"]})

    async def _editMessageText(self, params: dict[str, Any]) -> web.Response:  # noqa: N802
        old = self.messages.get((params["chat_id"], params["message_id"]))
        if old is None:
            return _error(400, "Bad Request: message to edit not found")
        if old["text"] == params["text"] and old.get("reply_markup") == params.get("reply_markup"):
            return _error(400, "Bad Request: message is not modified: exactly the same")
        self.messages[params["chat_id"], params["message_id"]] = params
        return _ok({"message_id": params["message_id"], "text": params["text"]})

    async def _getWebhookInfo(self, params: dict[str, Any]) -> web.Response:  # noqa: N802
        return _ok({"url": self.hook})


def _ok(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _error(code: int, description: str, **parameters: Any) -> web.Response:
    answer = {"ok": False, "error_code": code, "description": description, "parameters": parameters}
    return web.json_response(answer, status=code)


@dataclass
class FakeInlet:
    """The core: takes what comes (once per delivery), or refuses with the next of `refusals`."""

    messages: list[Message] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, message: Message) -> Receipt:
        return (await self.receive_many([message]))[0]

    async def receive_many(self, messages: Sequence[Message]) -> list[Receipt]:
        if self.refusals:
            raise self.refusals.pop(0)
        receipts = []
        for message in messages:
            duplicate = any(message.delivery == known.delivery for known in self.messages)
            if not duplicate:
                self.messages.append(message)
            receipts.append(Receipt(len(self.messages), duplicate))
        self.came.set()
        return receipts

    async def outcome(self, inbox_id: int, *, wait: float = 0.0) -> Outcome:
        return Outcome(inbox_id, done=True)

    async def find(self, connector: str, bot: str, delivery: str) -> int | None:
        return None

    async def talk(self, message: Message, limit: int) -> list[Round]:
        return []

    async def chat_moved(self, connector: str, bot: str, old: str, new: str) -> None:
        self.moves.append((old, new))
        self.came.set()

    async def next(self) -> Message:
        """The newest message, waiting for one."""
        await asyncio.wait_for(self.came.wait(), WAIT)
        self.came.clear()
        return self.messages[-1]


@pytest.fixture
async def api() -> FakeBotApi:
    return FakeBotApi()


@pytest.fixture
async def api_base(api: FakeBotApi) -> AsyncIterator[str]:
    async with TestServer(api.app(), host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def inlet() -> FakeInlet:
    return FakeInlet()


@pytest.fixture
async def connect(api_base: str, inlet: FakeInlet) -> AsyncIterator[Callable[..., Awaitable[Telegram]]]:
    """Makes started connectors; keywords are settings, `commands` and `language`."""
    made: list[Telegram] = []

    async def make(*, commands: Any = None, language: Any = "auto", **settings: Any) -> Telegram:
        given = {"name": "main", "token": TOKEN, "api_base": api_base, **settings}
        telegram = Telegram(
            TelegramSettings.model_validate(given),
            catalogue=Catalogue.load(),
            language=language,
            max_body=4096,
            commands=commands,
        )
        await telegram.start(inlet)
        made.append(telegram)
        return telegram

    yield make
    for telegram in made:
        await telegram.stop()
        await telegram.close()


@pytest.fixture
def part() -> Callable[..., Outgoing]:
    """Builds a part of an answer; keywords of the target and of the part may be mixed."""

    def build(text: str = "Answer", *, chat: str = "5", key: str = "k", **given: Any) -> Outgoing:
        names = Target.__dataclass_fields__
        place = {name: given.pop(name) for name in list(given) if name in names}
        return Outgoing(Target("telegram", "main", chat, **place), text, key, **given)

    return build
