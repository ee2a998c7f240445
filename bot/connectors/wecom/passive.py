"""Passive replies: the first part of an answer goes into the response to the callback that asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from bot.connectors.base import Inlet
from bot.errors import StoreError
from bot.reply import Outgoing


class Slot:
    """Room for one part. `offered` is that part, `written` whether a response took it."""

    __slots__ = ("holders", "offered", "written")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.offered: asyncio.Future[Outgoing] = loop.create_future()
        self.written: asyncio.Future[bool] = loop.create_future()
        self.holders = 0

    async def part(self, inlet: Inlet, inbox_id: int, until: float) -> Outgoing | None:
        """The part once it is offered; None when there will be none, or none by the loop's time `until`."""
        loop = asyncio.get_running_loop()
        if not self.offered.done():
            speaks = loop.create_task(_speaks(inlet, inbox_id, until - loop.time()))
            either: list[asyncio.Future[Any]] = [self.offered, speaks]
            try:
                await asyncio.wait(either, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                if not self.offered.done() and speaks.done() and speaks.result():
                    await asyncio.wait([self.offered], timeout=until - loop.time())
            finally:
                speaks.cancel()
        wanted = self.offered.done() and not self.written.done()  # else its sender was stopped
        return self.offered.result() if wanted else None

    async def write(self, request: web.Request, response: web.Response) -> None:
        """Send a response with the part: only what is sent was answered. Raises ConnectionError."""
        await response.prepare(request)
        await response.write_eof()
        if not self.written.done():
            self.written.set_result(True)


async def _speaks(inlet: Inlet, inbox_id: int, wait: float) -> bool:
    """Whether the answer to a message has a text; True while nobody knows."""
    try:
        outcome = await inlet.outcome(inbox_id, wait=wait)
    except StoreError:
        return True
    return not outcome.done or any(part.attachment is None for part in outcome.replies)


class PassiveReplies:
    """Where requests that can carry a reply and the sends that have one meet, by the message's delivery.

    Copies of a callback share a slot, since nobody knows which is the first until the inbox has said so,
    and the answer may be there even before that. The slot closes behind the last of them; a part that
    none of them wrote is to be sent otherwise.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}

    @contextmanager
    def slot(self, delivery: str) -> Iterator[Slot]:
        """Hold the slot of a message open. Leaving it without writing the part gives the part back."""
        slot = self._slots.get(delivery)
        if slot is None:
            slot = self._slots[delivery] = Slot()
        slot.holders += 1
        try:
            yield slot
        finally:
            slot.holders -= 1
            if not slot.holders:
                self._close(delivery, slot)

    async def offer(self, part: Outgoing) -> bool:
        """Whether an open request has written the part, the first that it was offered."""
        slot = self._slots.pop(part.target.delivery, None)
        if slot is None:
            return False
        slot.offered.set_result(part)
        return await slot.written

    def _close(self, delivery: str, slot: Slot) -> None:
        if self._slots.get(delivery) is slot:
            del self._slots[delivery]
        if not slot.written.done():
            slot.written.set_result(False)
