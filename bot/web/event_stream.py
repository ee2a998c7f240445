"""Server-sent events to one open page: committed replies in order, growing answers as they are."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from aiohttp import web

from bot.reply import Outgoing

HEARTBEAT = 15.0
WRITE_WITHIN = 30.0
MAX_WAITING = 100
RECONNECT_AFTER = 2000  # milliseconds


class EventStream:
    """What waits to be written to one client.

    Replies carry their row's id, so that a client which comes back says where it was. Of an answer that
    grows only the newest state waits, and the client is sent what it lacks of it. A client that does
    not keep up is let go: it comes back and resumes. `is_gone` tells whether the client has left, which
    writing finds out only at the next heartbeat.
    """

    def __init__(self, is_gone: Callable[[], bool] = lambda: False) -> None:
        self.is_gone = is_gone
        self._events: deque[tuple[int, bytes]] = deque()
        self._growing: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._last = 0
        self._news = asyncio.Event()
        self._closed = False

    def catch_up(self, parts: Sequence[Outgoing], *, complete: bool) -> None:
        """Put what the client missed first; what was published meanwhile is not doubled.

        Where even that is not all of it (not `complete`), the client is told to load the talk again.
        """
        newest = max((part.id for part in parts), default=0)
        meanwhile = [event for event in self._events if not 0 < event[0] <= newest]
        if complete:
            missed = [(part.id, _event("reply", reply_fields(part), part.id)) for part in parts]
        else:
            missed = [(newest, _event("reset", {}, newest))]
        self._events = deque((*missed, *meanwhile))
        self._last = max(self._last, newest)
        self._news.set()

    def question(self, message_id: str, text: str) -> None:
        """A question that was asked, perhaps on another page of the same visitor."""
        self._push(0, _event("question", {"id": message_id, "text": text}))

    def reply(self, part: Outgoing) -> None:
        """A committed part."""
        if part.id <= self._last:
            return
        self._last = part.id
        self._growing.pop(part.target.message_id, None)
        self._shown.pop(part.target.message_id, None)
        self._push(part.id, _event("reply", reply_fields(part), part.id))

    def grow(self, message_id: str, text: str) -> None:
        """The text so far of an answer."""
        self._growing[message_id] = text
        self._news.set()

    def close(self) -> None:
        """End the stream once what waits is written."""
        self._closed = True
        self._news.set()

    async def run(self, response: web.StreamResponse) -> None:
        """Write until it is closed or the client is gone or too slow."""
        await self._write(response, f"retry: {RECONNECT_AFTER}\n\n".encode())
        while not (self._closed and not self._events):
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._news.wait()
            except TimeoutError:
                await self._write(response, b": still here\n\n")
                continue
            self._news.clear()
            await self._write(response, b"".join(self._take()))

    def _take(self) -> Iterator[bytes]:
        while self._events:
            yield self._events.popleft()[1]
        for message_id, text in self._growing.items():
            shown = self._shown.get(message_id, "")
            more = bool(shown) and text.startswith(shown)
            piece = text[len(shown) :] if more else text
            if piece:
                yield _event("delta", {"to": message_id, "text": piece, "more": more})
            self._shown[message_id] = text
        self._growing.clear()

    def _push(self, number: int, event: bytes) -> None:
        if len(self._events) >= MAX_WAITING:
            self._events.clear()
            self._closed = True
        if not self._closed:
            self._events.append((number, event))
        self._news.set()

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Raises ConnectionError for a client that is gone or takes nothing any more."""
        try:
            async with asyncio.timeout(WRITE_WITHIN):
                await response.write(data)
        except TimeoutError:
            raise ConnectionResetError("the client does not read") from None


def reply_fields(part: Outgoing) -> dict[str, object]:
    """A part as the page gets it; `to` is the id that the page gave its question."""
    return {
        "to": part.target.message_id,
        "round": part.inbox_id,
        "text": part.text,
        "sources": part.sources,
        "choices": part.choices,
        "feedback": part.feedback,
        "markdown": part.markdown,
        "final": part.final,
    }


def _event(name: str, data: object, row: int | None = None) -> bytes:
    number = "" if row is None else f"id: {row}\n"
    return f"event: {name}\n{number}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
