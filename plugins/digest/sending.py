"""Makes a digest and sends it to its chats."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from bot import Attachment, BotError, Catalogue, Channels, Reply
from bot.retrieval import Encoder
from bot.store import Tally
from model.types import ChatModel
from plugins.digest.base import Digest
from plugins.digest.chart import draw
from plugins.digest.numbers import Numbers, collect
from plugins.digest.render import Words, facts, render
from plugins.digest.summary import summarise

log = structlog.get_logger(__name__)
_DAYS = {"day": 1, "week": 7, "month": 30}


@dataclass(frozen=True, slots=True)
class Press:
    """What is needed to make digests."""

    tally: Tally
    catalogue: Catalogue
    encoder: Encoder | None
    model: ChatModel | None

    async def numbers(self, digest: Digest, last: float, due: float) -> Numbers:
        """What a digest that is due tells; last: when the one before was. Raises StoreError."""
        days = _DAYS.get(digest.covers)
        since = last if days is None else due - days * 86400.0
        return await collect(
            self.tally,
            since,
            due,
            zone=digest.timezone,
            chats=digest.about or None,
            encoder=self.encoder,
            subject=digest.subject,
        )

    async def text(self, digest: Digest, numbers: Numbers, *, late: bool = False) -> str:
        """The digest in words."""
        lines = facts(numbers, Words(self.catalogue, digest))
        summary = await summarise(self.model, lines, digest.language) if digest.summary else ""
        return render(digest, numbers, self.catalogue, late=late, summary=summary)

    async def send(
        self, digest: Digest, last: float, due: float, channels: Channels, *, late: bool = False
    ) -> None:
        """Send it to all of its chats, each once however often it is tried. Raises StoreError."""
        numbers = await self.numbers(digest, last, due)
        text = await self.text(digest, numbers, late=late)
        picture = await asyncio.to_thread(draw, numbers.days) if digest.chart else None
        chart = () if picture is None else (Attachment("image", f"{digest.name}.png", picture),)
        for chat in digest.chats:
            try:
                shown = chart if channels.takes(chat, "image") else ()
                reply = Reply(text, markdown=True, attachments=shown)
                await channels.send(chat, reply, key=f"digest-{digest.name}-{due:.0f}")
            except BotError as error:
                log.error("a digest cannot be sent", digest=digest.name, chat=chat, problem=str(error))
        log.info("digest sent", digest=digest.name, late=late, questions=numbers.questions)
