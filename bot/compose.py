"""From a reply to the parts a platform takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from bot.connectors.base import Capabilities
from bot.message import Message
from bot.render import measure, split_text
from bot.reply import Attachment, Outgoing, Reply, Target

log = structlog.get_logger(__name__)
ELLIPSIS = "…"


def target_of(message: Message) -> Target:
    """Where the answer to a message goes."""
    return Target(
        message.connector,
        message.bot,
        message.chat.id,
        group=message.chat.group,
        thread=message.chat.thread,
        user=message.user.id,
        message_id=message.id,
        delivery=message.delivery,
        return_path=message.return_path,
    )


def with_sources(reply: Reply, able: Capabilities, text: Callable[..., str]) -> Reply:
    """The reply with its sources listed below the text, where the platform has no other place for them."""
    if able.shows_sources or not reply.sources:
        return reply
    items = (
        text("source_item", number=number, title=title) for number, title in enumerate(reply.sources, start=1)
    )
    return replace(reply, text="\n".join((f"{reply.text}\n", text("sources"), *items)))


def compose(
    reply: Reply, able: Capabilities, target: Target, inbox_id: int | None, key: str
) -> list[Outgoing]:
    """Parts that fit the platform: texts, the last of them with the buttons, then attachments.

    The last part is final; `key` begins their keys.
    """
    taken = [item for item in reply.attachments if item.kind in able.attachments]
    if able.max_parts is not None:
        taken = taken[: able.max_parts - 1]
    named = [item.line for item in reply.attachments if item not in taken]
    text = "\n".join(filter(None, (reply.text, *named)))
    pieces = split_text(text, able.max_text, able.unit, markdown=reply.markdown)
    if able.max_parts is not None:
        pieces = _shortened(pieces, able, able.max_parts - len(taken))
    parts: list[tuple[str, Attachment | None]] = [(piece, None) for piece in pieces]
    parts += [(item.line, item) for item in taken]
    buttons = max(0, len(pieces) - 1)
    return [
        Outgoing(
            target,
            content,
            f"{key}-{number}",
            inbox_id=inbox_id,
            part=number,
            final=number == len(parts) - 1,
            markdown=reply.markdown and attachment is None,
            feedback=reply.feedback and number == buttons,
            sources=reply.all_sources,
            choices=reply.choices if number == buttons else (),
            attachment=attachment,
        )
        for number, (content, attachment) in enumerate(parts)
    ]


def _shortened(pieces: list[str], able: Capabilities, most: int) -> list[str]:
    """The first pieces, the last of them ending in an ellipsis where something is left out."""
    if len(pieces) <= most:
        return pieces
    log.warning("an answer is longer than its platform takes", parts=len(pieces), sent=most)
    *kept, last = pieces[:most]
    room = able.max_text - measure(ELLIPSIS, able.unit)
    return [*kept, split_text(last, room, able.unit)[0] + ELLIPSIS]
