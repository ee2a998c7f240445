"""From a reply to the parts a platform takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bot.connectors.base import Capabilities
from bot.message import Message
from bot.render import split_text
from bot.reply import Outgoing, Reply, Target


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
    """Parts that fit the platform, the last one final and with the buttons; `key` begins their keys."""
    pieces = split_text(reply.text, able.max_text, able.unit, markdown=reply.markdown)
    last = len(pieces) - 1
    return [
        Outgoing(
            target,
            piece,
            f"{key}-{number}",
            inbox_id=inbox_id,
            part=number,
            final=number == last,
            markdown=reply.markdown,
            feedback=reply.feedback and number == last,
            sources=reply.all_sources,
            choices=reply.choices if number == last else (),
        )
        for number, piece in enumerate(pieces)
    ]
