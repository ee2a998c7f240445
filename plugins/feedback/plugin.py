"""Thumbs up and down: recorded with the answer they are about."""

from __future__ import annotations

import structlog

from bot import Message, Plugin
from bot.store import History

log = structlog.get_logger(__name__)
_VOTES: dict[object, int] = {1: 1, -1: -1, "up": 1, "down": -1}

plugin = Plugin("feedback", help="records thumbs up and down")


@plugin.event("feedback")
async def record(message: Message, history: History) -> None:
    """Note a vote (1 or "up", -1 or "down") on the answer to message `inbox_id`; only its asker has one."""
    answered, given = message.data.get("inbox_id"), message.data.get("vote")
    vote = _VOTES.get(given) if isinstance(given, int | str) else None
    if not isinstance(answered, int) or vote is None:
        log.warning("a vote says nothing", data=dict(message.data))
        return
    found = await history.vote(message.connector, message.user.id, answered, vote)
    log.info("vote", up=vote > 0, answer=answered, recorded=found)
