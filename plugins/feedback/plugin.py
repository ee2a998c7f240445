"""Thumbs up and down, by button, reaction, menu or in words, kept with the answers they are about."""

from __future__ import annotations

import re
from pathlib import Path
from time import time
from typing import Annotated

import structlog
from pydantic import BaseModel, BeforeValidator, Field

from bot import Message, Plugin, Reply, Session, mask_personal_data, parse_duration, to_me
from bot.store import History, Store
from plugins.feedback.tables import Votes

log = structlog.get_logger(__name__)
_VOTES: dict[object, int] = {1: 1, -1: -1, "up": 1, "down": -1}
_UP = re.compile(
    r"(?:👍|很?有用|有帮助|很?有帮助的?|解决了|(?:this |that |it )?(?:was )?(?:very )?helpful|that helped)",
    re.I,
)
_DOWN = re.compile(
    r"(?:👎|没用|没有用|没帮助|没有帮助|没解决|没有解决|不对|答非所问|"
    r"(?:this |that |it )?(?:was )?not helpful|"
    r"(?:that |this )?did(?: not|n'?t) help|(?:that'?s |this is )?wrong)",
    re.I,
)
_AROUND = " \t\n。.!！~～,，🏻🏼🏽🏾🏿"
COMMENT_WITHIN = 86400.0
"""Seconds after a vote for which a comment is taken to be about it."""
LONGEST = 1000
"""Characters of a comment."""


class Config(BaseModel, extra="forbid"):
    """How long after an answer words such as "没用" are about it, and for how long votes are kept."""

    words_within: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = 600.0
    keep: Annotated[float, BeforeValidator(parse_duration), Field(gt=0)] = 90 * 86400.0


plugin = Plugin(
    "feedback",
    config=Config,
    help="records thumbs up and down",
    tables=Path(__file__).parent / "migrations",
)


@plugin.event("feedback")
async def record(message: Message, history: History, store: Store) -> None:
    """Note a vote (1 or "up", -1 or "down") on the answer to message `inbox_id`; only its asker has one."""
    answered, given = message.data.get("inbox_id"), message.data.get("vote")
    vote = _VOTES.get(given) if isinstance(given, int | str) else None
    if not isinstance(answered, int) or vote is None:
        log.warning("a vote says nothing", data=dict(message.data))
        return
    found = await _vote(message, answered, vote, history, store)
    log.info("vote", up=vote > 0, answer=answered, recorded=found)


@plugin.message(to_me, priority=3)
async def in_words(
    message: Message, session: Session, history: History, store: Store, config: Config
) -> Reply | None:
    """A message that says nothing but that the answer before it helped, or did not."""
    text = message.text.strip(_AROUND)
    vote = 1 if _UP.fullmatch(text) else -1 if _DOWN.fullmatch(text) else 0
    if not vote:
        return None
    rounds = await history.rounds(session.key, 1)
    if not rounds or rounds[0].miss or time() - rounds[0].created_at > config.words_within:
        return None
    if not await _vote(message, rounds[0].inbox_id, vote, history, store):
        return None
    if vote > 0:
        return Reply(session.text("feedback_thanks"))
    return Reply(session.text("feedback_down_reply", contact=session.text("contact")), hand_over="vote")


@plugin.command("comment", "意见", help="command_comment")
async def comment(args: str, message: Message, session: Session, store: Store) -> str:
    """What was good or bad about the answer that the user voted on last."""
    votes = Votes(store)
    latest = await votes.latest(message, time() - COMMENT_WITHIN)
    if not args:
        return session.text("comment_usage")
    if latest is None:
        return session.text("comment_about_nothing")
    await votes.comment(latest.inbox_id, mask_personal_data(args[:LONGEST]))
    return session.text("feedback_thanks")


@plugin.schedule("23 3 * * *")
async def tidy(store: Store, config: Config) -> None:
    """Forget old votes."""
    await Votes(store).expire(time() - config.keep)


async def _vote(message: Message, answered: int, vote: int, history: History, store: Store) -> bool:
    """Whether there is such an answer to the sender; the vote is noted then."""
    about = await history.round(message.connector, message.user.id, answered)
    if about is None:
        return False
    await Votes(store).cast(message, about, vote, time())
    return await history.vote(message.connector, message.user.id, answered, vote)
