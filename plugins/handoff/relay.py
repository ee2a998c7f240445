"""Between customers and staff: what one says reaches the other, once, whatever crashes.

A text that waits for its line stands in the database together with the message that brought it last, which
also is the line's key: a message or a line that is handled again after a crash repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import time
from typing import Any

import structlog

from bot import Background, BotError, Catalogue, Channels, Message, Reply
from bot.store import Step
from plugins.handoff.tables import Handoff, Handoffs, Line

log = structlog.get_logger(__name__)
LINE_EVERY = 10.0
"""Seconds between two lines of one hand-over that nobody has taken yet."""
_MOST = 50_000
"""Characters that wait at most, the latest ones: more wait only where no staff chat can be told."""


async def tell_all(channels: Channels, chats: Sequence[str], text: str, key: str) -> bool:
    """Whether any of the chats will get the text."""
    told = [await tell(channels, chat, text, key) for chat in dict.fromkeys(chats)]
    return any(told)


async def tell(channels: Channels, chat: str, text: str | Reply, key: str, thread: str = "") -> bool:
    """Whether a chat will get the text."""
    try:
        await channels.send(chat, text, key=key, thread=thread or None)
    except BotError as error:
        log.error("a chat cannot be told of a hand-over", chat=chat, problem=str(error))
        return False
    return True


async def tell_customer(channels: Channels, handoff: Handoff, text: str | Reply, key: str) -> bool:
    """Whether the customer will get the text."""
    return await tell(channels, handoff.place, text, key, handoff.thread)


async def was_not_told(channels: Channels, key: str) -> bool:
    """Whether a text for the staff chats reached none of them, and never will."""
    return all([await channels.failed(chat, key=key) for chat in channels.staff])


def text_of(catalogue: Catalogue, handoff: Handoff, key: str, **fields: object) -> str:
    """A text for staff, in the customer's language."""
    known = {"number": handoff.number, "user": handoff.user_name}
    return catalogue.text(key, handoff.language, **known, **fields)


def said_in(message: Message) -> str:
    """What staff read of a message: its text, and which media came with it."""
    media = [part for part in message.segments if part.type not in ("text", "mention")]
    return "\n".join(filter(None, [message.text, *(f"[{part.type}] {part.text}".rstrip() for part in media)]))


class Lines:
    """Passes on what customers say: at once to who took the talk, else in lines that leave room for others.

    Of one hand-over the staff chats get a line each LINE_EVERY; what comes meanwhile is joined.
    """

    def __init__(
        self, handoffs: Handoffs, channels: Channels, catalogue: Catalogue, background: Background
    ) -> None:
        self._handoffs = handoffs
        self._channels = channels
        self._catalogue = catalogue
        self._background = background

    async def add(self, handoff: Handoff, said: str, trace: str) -> bool:
        """Pass on what message `trace` says, or nothing new; False where the talk has ended meanwhile."""
        told = self._handoffs.held.told
        async with self._handoffs.held.lock(handoff.number):
            current = self._handoffs.current(handoff)
            if current is None or current.heard == trace:
                return current is not None
            handoff = current
            if handoff.number not in told:  # an earlier process may have told it: alone, by its own key
                handoff = await self._tell(handoff)
            waits = bool(handoff.unsaid)
            unsaid = "\n".join(filter(None, [handoff.unsaid, said]))[-_MOST:]
            line = Line("customer", "", said)
            kept = [self._handoffs.saying(handoff, line, trace, time())] if said else []
            handoff = await self._note(handoff, *kept, last_at=time(), unsaid=unsaid, heard=trace)
            if handoff.state == "human" or time() - told.get(handoff.number, 0.0) >= LINE_EVERY:
                await self._tell(handoff)
            elif said and not waits:
                self.tell_soon(handoff)
        return True

    async def tell(self, handoff: Handoff) -> None:
        """Pass on at once what waits."""
        async with self._handoffs.held.lock(handoff.number):
            await self.tell_rest(handoff)

    async def tell_rest(self, handoff: Handoff) -> None:
        """Pass on at once what waits, for who holds the lock of the hand-over."""
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
        key = f"handoff-{handoff.heard}"
        told = handoff.desk != "" and await tell(self._channels, handoff.desk, text, key)
        told = told or await tell_all(self._channels, self._channels.staff, text, key)
        return await self._note(handoff, unsaid="") if told else handoff

    async def _note(self, handoff: Handoff, *steps: Step, **values: Any) -> Handoff:
        """Remember; a database that is away must not make the bot speak."""
        try:
            await self._handoffs.change(handoff, *steps, **values)
        except BotError as error:
            log.error("cannot note what a customer said", number=handoff.number, problem=str(error))
        return replace(handoff, **values)
