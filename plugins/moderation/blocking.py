"""Who is not listened to: how commands name users, and what is told about it."""

from __future__ import annotations

from time import time

from bot import Channels, Message, Session
from plugins.moderation.config import Config
from plugins.moderation.state import State
from plugins.moderation.tables import Block

_LONGEST = 525_600
"""Minutes of a block that ends: a year."""


def blocked_now(state: State, config: Config, message: Message) -> bool:
    """Whether the sender of a message is blocked, by the configuration or a command."""
    user = message.user.id
    if config.blocked and not {f"{message.bot}:{user}", f"{message.connector}:{user}"}.isdisjoint(
        config.blocked
    ):
        return True
    return state.blocks is not None and state.blocks.find(message.bot, user, time()) is not None


def parse_block(args: str) -> tuple[str, int | None] | None:
    """The user and the minutes of `USER [minutes]`; None where it is written otherwise."""
    user, *rest = args.split() or [""]
    if not user or len(user) > 192 or len(rest) > 1:
        return None
    if not rest:
        return user, None
    minutes = rest[0]
    if not (minutes.isascii() and minutes.isdecimal() and len(minutes) < 9 and 0 < int(minutes) <= _LONGEST):
        return None
    return user, int(minutes)


def whom(given: str, message: Message, channels: Channels) -> tuple[str, str, str]:
    """Connector, user and platform of `connector:user_id`, or of a user where the message was written."""
    name, colon, user = given.partition(":")
    platform = channels.platform(name) if colon and user else None
    return (name, user, platform) if platform else (message.bot, given, message.connector)


def describe(block: Block, session: Session, now: float) -> str:
    """One line about a block."""
    if block.until is None:
        return session.text("moderation_blocked_for_good", user=block.identity, agent=block.by)
    minutes = max(1, round((block.until - now) / 60))
    return session.text("moderation_blocked_until", user=block.identity, agent=block.by, minutes=minutes)
