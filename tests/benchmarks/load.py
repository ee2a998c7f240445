"""A load generator and receiver for the webhook, light enough to share two cores with the bot it loads.

HTTP is spoken by hand over kept connections: a client library would take more of the machine than the bot.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

KEY = b"the benchmark's own signing key."
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PATH = "/webhook/shop"
_GRACE = 30.0


@dataclass(frozen=True)
class Question:
    """A text to ask and the FAQ entry that answers it."""

    text: str
    expected: str


@dataclass
class Tally:
    """What was counted; times in seconds."""

    offered: int = 0
    accepted: int = 0
    refused: int = 0
    delivered: int = 0
    in_time: int = 0
    doubled: int = 0
    right: int = 0
    acks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Accepted, and no reply came."""
        return self.accepted - (self.delivered - self.doubled)


class Load:
    """Messages in, replies out; one instance per run, with the `Receiver` that it listens to."""

    def __init__(
        self, port: int, questions: Iterator[Question], receiver: Receiver, *, chats: int, name: str
    ) -> None:
        self.tally = Tally()
        receiver.on_reply = self.delivered
        self._port = port
        self._questions = questions
        self._name = name
        self._chats = [_Client(self, number) for number in range(chats)]
        self._asked: dict[str, tuple[float, Question, _Client]] = {}
        self._seen: set[str] = set()
        self._closed_loop = True
        self._until = 0.0
        self._idle = asyncio.Event()

    async def run(self, seconds: float, rate: float | None = None) -> float:
        """Load for `seconds`, then wait for the last replies; returns how long the loading took.

        Without a `rate` (messages per second) each chat asks again as soon as it has its reply; with one,
        the chats take turns, and ask by the clock whether or not they were answered.
        """
        loop = asyncio.get_running_loop()
        for chat in self._chats:
            await loop.create_connection(lambda chat=chat: chat, "127.0.0.1", self._port)
        began = time.perf_counter()
        self._until = began + seconds
        self._closed_loop = rate is None
        if rate is None:
            for chat in self._chats:
                chat.ask()
            await asyncio.sleep(seconds)
        else:
            await self._pace(began, rate)
        took = time.perf_counter() - began
        self.tally.in_time = self.tally.delivered
        with suppress(TimeoutError):  # what is missing then counts as lost
            await asyncio.wait_for(self._settled(), _GRACE)
        for chat in self._chats:
            chat.close()
        return took

    async def _pace(self, began: float, rate: float) -> None:
        sent = 0
        while (now := time.perf_counter()) < self._until:
            while sent < (now - began) * rate:
                self._chats[sent % len(self._chats)].ask()
                sent += 1
            await asyncio.sleep(0.002)

    async def _settled(self) -> None:
        while self._asked or any(chat.waiting for chat in self._chats):
            self._idle.clear()
            await self._idle.wait()

    def request(self, chat: _Client) -> tuple[str, bytes]:
        """The next message of a chat: (webhook-id, HTTP request)."""
        question = next(self._questions)
        message_id = f"{self._name}-{self.tally.offered}"
        self.tally.offered += 1
        self._asked[message_id] = (time.perf_counter(), question, chat)
        fields = {
            "type": "message",
            "chat_id": f"chat {chat.number}",
            "user_id": f"user {chat.number}",
            "text": question.text,
        }
        body = json.dumps(fields, ensure_ascii=False).encode()
        stamp = str(int(time.time()))
        signature = hmac.digest(KEY, b".".join((message_id.encode(), stamp.encode(), body)), "sha256")
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nwebhook-id: {message_id}\r\n"
            f"webhook-timestamp: {stamp}\r\n"
            f"webhook-signature: v1,{base64.b64encode(signature).decode()}\r\n\r\n"
        )
        return message_id, head.encode() + body

    def acknowledged(self, message_id: str, sent: float, status: int) -> None:
        """The bot answered a request."""
        if status in (200, 202):
            self.tally.accepted += 1
            self.tally.acks.append(time.perf_counter() - sent)
        else:
            self.tally.refused += 1
            self._asked.pop(message_id, None)
        self._idle.set()

    def delivered(self, reply: dict[str, Any]) -> None:
        """The bot delivered a reply."""
        self.tally.delivered += 1
        message_id = reply["in_reply_to"]
        if message_id in self._seen:
            self.tally.doubled += 1
            return
        self._seen.add(message_id)
        asked, question, chat = self._asked.pop(message_id)
        now = time.perf_counter()
        self.tally.answers.append(now - asked)
        self.tally.right += question.expected in reply["sources"]
        self._idle.set()
        if self._closed_loop and now < self._until:
            chat.ask()


class Receiver:
    """Takes the replies and hands each to `on_reply`."""

    def __init__(self) -> None:
        self.on_reply: Callable[[dict[str, Any]], None] = lambda reply: None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen on a free port of the loopback; yields the reply_url."""
        server = await asyncio.get_running_loop().create_server(lambda: _Inbound(self), "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/replies"
        finally:
            server.close()


class _Client(asyncio.Protocol):
    """One chat on one connection; answers come in the order of the requests."""

    def __init__(self, load: Load, number: int) -> None:
        self.number = number
        self.waiting: deque[tuple[str, float]] = deque()
        self._load = load
        self._transport: Any = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Acknowledgements."""
        found, self._rest = whole_messages(self._rest + data)
        for head, _ in found:
            message_id, sent = self.waiting.popleft()
            self._load.acknowledged(message_id, sent, int(head[9:12]))

    def ask(self) -> None:
        """Send the next message."""
        message_id, request = self._load.request(self)
        self.waiting.append((message_id, time.perf_counter()))
        self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


class _Inbound(asyncio.Protocol):
    """One connection on which the bot delivers replies."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: Any = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Replies."""
        found, self._rest = whole_messages(self._rest + data)
        for _, body in found:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self._receiver.on_reply(json.loads(body))


def whole_messages(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """(head, body) of each whole HTTP message with a Content-Length, and what is left."""
    found = []
    while (end := data.find(b"\r\n\r\n")) >= 0:
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[: end + 2])
        stop = end + 4 + (int(length[1]) if length else 0)
        if len(data) < stop:
            break
        found.append((data[:end], data[end + 4 : stop]))
        data = data[stop:]
    return found, data
