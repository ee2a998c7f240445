"""What the staff chats are told of hand-overs, and what customers say, in lines that leave room for others.

A text that waits for its line stands in the database together with the message that brought it last, which
also is the line's key: a message or a line that is handled again after a crash repeats nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import time
from typing import Any

import structlog

from bot import Background, BotError, Catalogue, Channels
from plugins.handoff.tables import Handoff, Handoffs

log = structlog.get_logger(__name__)
LINE_EVERY = 10.0
"""Seconds between two lines of one hand-over."""
_MOST = 50_000
"""Characters that wait at most, the latest ones: more wait only where no staff chat can be told."""


async def tell_staff(channels: Channels, text: str, key: str) -> bool:
    """Whether any of the staff chats will get the text."""
    told = [await tell(channels, chat, text, key) for chat in channels.staff]
    return any(told)


async def tell(channels: Channels, chat: str, text: str, key: str) -> bool:
    """Whether a chat will get the text."""
    try:
        await channels.send(chat, text, key=key)
    except BotError as error:
        log.error("a chat cannot be told of a hand-over", chat=chat, problem=str(error))
        return False
    return True


async def tell_those(handoff: Handoff, channels: Channels, text: str, key: str) -> bool:
    """Whether who works on a talk will get the text: who took it, else all staff chats."""
    if handoff.agent_chat:
        return await tell(channels, handoff.agent_chat, text, key)
    return await tell_staff(channels, text, key)


async def was_not_told(channels: Channels, key: str) -> bool:
    """Whether a text for the staff chats reached none of them, and never will."""
    return all([await channels.failed(chat, key=key) for chat in channels.staff])


def text_of(catalogue: Catalogue, handoff: Handoff, key: str, **fields: object) -> str:
    """A text for staff, in the customer's language."""
    known = {"number": handoff.number, "user": handoff.user_name}
    return catalogue.text(key, handoff.language, **known, **fields)


class Lines:
    """Passes on what customers say: at once to who took the talk, to the staff chats one line per hand-over
    and LINE_EVERY, what comes meanwhile being joined.
    """

    def __init__(
        self, handoffs: Handoffs, channels: Channels, catalogue: Catalogue, background: Background
    ) -> None:
        self._handoffs = handoffs
        self._channels = channels
        self._catalogue = catalogue
        self._background = background

    async def add(self, handoff: Handoff, said: str, trace: str) -> None:
        """Pass on what message `trace` says, or nothing new: now, or soon where a line was just told."""
        told = self._handoffs.held.told
        async with self._handoffs.held.lock:
            handoff = self._handoffs.current(handoff) or handoff
            if handoff.heard == trace:
                return
            if handoff.number not in told:  # an earlier process may have told it: alone, by its own key
                handoff = await self._tell(handoff)
            waits = bool(handoff.unsaid)
            unsaid = "\n".join(filter(None, [handoff.unsaid, said]))[-_MOST:]
            handoff = await self._note(handoff, last_at=time(), unsaid=unsaid, heard=trace)
            if handoff.agent_chat or time() - told.get(handoff.number, 0.0) >= LINE_EVERY:
                await self._tell(handoff)
            elif said and not waits:
                self.tell_soon(handoff)

    async def tell(self, handoff: Handoff) -> None:
        """Pass on at once what waits."""
        async with self._handoffs.held.lock:
            current = self._handoffs.current(handoff)
            if current is not None:
                await self._tell(current)

    def tell_soon(self, handoff: Handoff) -> None:
        """Pass on what waits when the next line may be told."""
        self._background.start(f"line of {handoff.number}", self._tell_later(handoff))

    async def _tell_later(self, handoff: Handoff) -> None:
        last = self._handoffs.held.told.get(handoff.number, time())
        await asyncio.sleep(max(0.0, last + LINE_EVERY - time()))
        await self.tell(handoff)

    async def _tell(self, handoff: Handoff) -> Handoff:
        if not handoff.unsaid:
            return handoff
        self._handoffs.held.told[handoff.number] = time()
        text = text_of(self._catalogue, handoff, "handoff_message", text=handoff.unsaid)
        told = await tell_those(handoff, self._channels, text, f"handoff-{handoff.heard}")
        return await self._note(handoff, unsaid="") if told else handoff

    async def _note(self, handoff: Handoff, **values: Any) -> Handoff:
        """Remember; a database that is away must not make the bot speak."""
        try:
            await self._handoffs.change(handoff, **values)
        except BotError as error:
            log.error("cannot note what a customer said", number=handoff.number, problem=str(error))
        return replace(handoff, **values)
