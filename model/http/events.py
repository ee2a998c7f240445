"""Server-sent events to a client that may leave at any time."""

from __future__ import annotations

from time import monotonic

from aiohttp import web

from model.http.errors import json_text

_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""What some clients take for the end of a line."""


def gone(request: web.Request) -> bool:
    """Whether nobody waits for the answer any more."""
    return request.transport is None or request.transport.is_closing()


class EventStream:
    """A response of events, each written in one piece: no character is ever split."""

    def __init__(self, response: web.StreamResponse, ping_every: float) -> None:
        self.response = response
        self._ping_every = ping_every
        self._written = monotonic()

    @classmethod
    async def open(cls, request: web.Request, ping_every: float) -> EventStream:
        """Send the headers. Raises ConnectionError, as all below, when the client has left."""
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx would hold the events back
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        return cls(response, ping_every)

    async def send(self, value: object) -> None:
        """One event, of JSON."""
        await self._write(f"data: {json_text(value).translate(_BREAKS)}\n\n")

    async def ping(self) -> None:
        """A comment, if nothing was written for a while: proxies and clients see that the line is alive."""
        if monotonic() - self._written >= self._ping_every:
            await self._write(": ping\n\n")

    async def end(self) -> web.StreamResponse:
        """The last event, as OpenAI's clients wait for it."""
        await self._write("data: [DONE]\n\n")
        return self.response

    async def _write(self, text: str) -> None:
        self._written = monotonic()
        await self.response.write(text.encode("utf-8", "replace"))
