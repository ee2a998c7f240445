"""转人工: hands a talk over to people who are told of it, and keeps the bot silent until it is given back.

Where the platform has a desk of its own, people work there; elsewhere the configured staff chats are told.
A message that is handled again after a crash finds what its first run left and completes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Annotated

import structlog
from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, StringConstraints

from bot import (
    Answer,
    BotError,
    Catalogue,
    Channels,
    ConnectorError,
    Facts,
    Message,
    Next,
    Plugin,
    Session,
    parse_duration,
    role,
    to_me,
)
from bot.store import Store
from plugins.handoff.tables import Handoff, Handoffs
from plugins.handoff.wish import wish

log = structlog.get_logger(__name__)
KEPT = 90 * 86400.0
"""Seconds that a closed hand-over is kept."""
BACK = ("bot", "机器人")
STAFF = ("agents", "admins")
_BACK = re.compile(rf"[/／](?:{'|'.join(BACK)})(?:\s|$)", re.IGNORECASE)
_LONGEST, _LISTED = 500, 40
"""Characters of a question that are kept, and those that a list shows."""


class Config(BaseModel, extra="forbid"):
    """When a silent customer is the bot's again, and further phrases that ask for a person."""

    release_after: Annotated[float, BeforeValidator(parse_duration), Field(gt=0)] | None = 86400.0
    words: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = []

    _open: dict[str, Handoff] = PrivateAttr(default_factory=dict)

    def handoffs(self, store: Store) -> Handoffs:
        """The hand-overs; the open ones are kept here, since settings live as long as the running plugin."""
        return Handoffs(store, self._open)


plugin = Plugin(
    "handoff",
    config=Config,
    help="hands a talk over to people",
    tables=Path(__file__).parent / "migrations",
)


@plugin.startup
async def load(store: Store, config: Config) -> None:
    """Take up what is open."""
    await config.handoffs(store).load()


# -- from the bot to people ---------------------------------------------------------------------


@plugin.message(to_me, priority=5)
async def hand_over(
    message: Message, session: Session, channels: Channels, catalogue: Catalogue, store: Store, config: Config
) -> str | None:
    """Give the talk of a customer who wants a person to the platform's desk, else tell the staff chats."""
    if not wish(message.text, config.words):
        return None
    handoffs = config.handoffs(store)
    wanted = _wanted(message, session, await _question(message, session))
    if await _to_desk(message, channels):
        await handoffs.begin(replace(wanted, by_platform=True))
        return session.text("handoff_started")
    if not channels.staff:
        return None
    handoff = await handoffs.begin(wanted)
    text = _text(
        catalogue,
        handoff,
        "handoff_staff",
        chat=message.chat.title or message.chat.id,
        channel=message.bot,
        question=handoff.question,
    )
    if await _tell_staff(channels, text, f"handoff-{message.trace}"):
        return session.text("handoff_started")
    await handoffs.close(handoff, by="nobody", trace=message.trace, now=time())
    return None


@plugin.message(to_me, priority=30)
async def nobody(message: Message, session: Session, config: Config) -> str | None:
    """Nobody could be told: after the FAQ, which may know a better way than the contact does."""
    if not wish(message.text, config.words):
        return None
    return session.text("handoff_nobody", contact=session.text("contact"))


@plugin.event("session")
async def follow(message: Message, session: Session, store: Store, config: Config) -> None:
    """The platform's desk took the talk (state 2 waiting, 3 with a person) or ended it (0, 1, 4)."""
    handoffs = config.handoffs(store)
    state, handoff = message.data.get("state"), handoffs.open.get(session.key)
    if state in (2, 3):
        await handoffs.begin(_wanted(message, session, "", by_platform=True))
    elif state in (0, 1, 4) and handoff is not None and handoff.by_platform:
        await handoffs.close(handoff, by="platform", trace=message.trace, now=time())


# -- while people have it -----------------------------------------------------------------------


@plugin.middleware(priority=5)
async def keep_silent(
    message: Message,
    next: Next,  # noqa: A002 - the name it is injected by
    facts: Facts,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    store: Store,
    config: Config,
) -> Answer:
    """Say nothing in a talk that people have, and pass on to the staff chats what the customer says."""
    handoffs = config.handoffs(store)
    handoff = handoffs.open.get(session.key)
    if handoff is None or handoff.trace == message.trace:  # the latter asked for it, before a crash
        return await next(message)
    over = _is_over(handoff, config)
    if over:
        await _give_back([handoff], handoffs, channels, catalogue)
        if session.key not in handoffs.open:
            return await next(message)
    if _is_for_the_bot(message, facts, handoff):
        return await next(message)
    if not message.to_me:
        return None
    if not over:
        await _note_heard(handoff, handoffs)
    said = _said(message)
    if handoff.by_platform or not said:
        return None
    text = _text(catalogue, handoff, "handoff_message", text=said)
    await _tell_staff(channels, text, f"handoff-{message.trace}")
    return session.text("handoff_already") if wish(message.text, config.words) else None


# -- back to the bot ----------------------------------------------------------------------------


@plugin.command(*BACK, help="command_bot")
async def back(
    message: Message, session: Session, channels: Channels, catalogue: Catalogue, store: Store, config: Config
) -> str:
    """The customer has enough of waiting."""
    handoffs = config.handoffs(store)
    handoff = handoffs.open.get(session.key)
    if handoff is not None:
        text = _text(catalogue, handoff, "handoff_released_staff")
        await _tell_staff(channels, text, f"handoff-{message.trace}")
        await handoffs.close(handoff, by="customer", trace=message.trace, now=time())
    return session.text("handoff_back")


@plugin.command("release", "转回", help="command_release", rules=[role(*STAFF)])
async def release(
    args: str,
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    store: Store,
    config: Config,
) -> str:
    """Give hand-over `args` back to the bot, and tell the customer unless the platform does."""
    handoffs = config.handoffs(store)
    named = _cut(args.removeprefix("#"), _LISTED)
    number = int(named) if named.isdecimal() and len(named) < 19 else 0  # what a database can hold
    handoff = next((item for item in handoffs.open.values() if item.number == number), None)
    if handoff is not None:
        if handoff.by_platform:
            await channels.take_back(handoff.connector, handoff.bot, handoff.chat)
        else:
            text = catalogue.text("handoff_released", handoff.language)
            await _tell(channels, f"{handoff.bot}:{handoff.chat}", text, f"handoff-{message.trace}")
        by = f"{message.bot}:{message.user.id}"
        await handoffs.close(handoff, by=by, trace=message.trace, now=time())
    elif not await handoffs.was_closed_by(number, message.trace):
        return session.text("handoff_unknown", number=named)
    return session.text("handoff_released_staff", number=number)


@plugin.command("handoffs", "人工列表", help="command_handoffs", rules=[role(*STAFF)])
async def list_open(session: Session, store: Store, config: Config) -> str:
    """The talks that people have, oldest first."""
    lines = [
        session.text(
            "handoff_list_item",
            number=handoff.number,
            channel=handoff.bot,
            user=handoff.user_name,
            minutes=round((time() - handoff.asked_at) / 60),
            question=_cut(" ".join(handoff.question.split()), _LISTED),
        )
        for handoff in sorted(config.handoffs(store).open.values(), key=lambda handoff: handoff.number)
    ]
    return "\n".join(lines) or session.text("handoff_none")


@plugin.schedule("*/10 * * * *")
async def tidy(channels: Channels, catalogue: Catalogue, store: Store, config: Config) -> None:
    """Give back what customers left, and forget what was closed long ago."""
    handoffs = config.handoffs(store)
    over = [handoff for handoff in handoffs.open.values() if _is_over(handoff, config)]
    await _give_back(over, handoffs, channels, catalogue)
    await handoffs.forget(time() - KEPT)


# -- the pieces ---------------------------------------------------------------------------------


def _wanted(message: Message, session: Session, question: str, *, by_platform: bool = False) -> Handoff:
    now = time()
    return Handoff(
        session=session.key,
        connector=message.connector,
        bot=message.bot,
        chat=message.chat.id,
        user=message.user.id,
        user_name=(message.user.name or message.user.id)[:256],
        language=session.language,
        question=question,
        by_platform=by_platform,
        trace=message.trace,
        asked_at=now,
        last_at=now,
    )


async def _question(message: Message, session: Session) -> str:
    """What staff should know: the question before, and how the customer asked for a person."""
    rounds = await session.history()
    before = [rounds[-1].question] if rounds else []
    return "\n".join(_cut(text, _LONGEST) for text in (*before, message.text))


def _said(message: Message) -> str:
    """What staff read of a message: its text, and which media came with it."""
    media = [part for part in message.segments if part.type not in ("text", "mention")]
    return "\n".join(filter(None, [message.text, *(f"[{part.type}] {part.text}".rstrip() for part in media)]))


def _is_for_the_bot(message: Message, facts: Facts, handoff: Handoff) -> bool:
    """Staff's commands always are; of the customer's only the way back, where the bot may open it."""
    if not facts.roles.isdisjoint(STAFF) and message.text.startswith(("/", "／")):
        return True
    return not handoff.by_platform and _BACK.match(message.text) is not None


def _is_over(handoff: Handoff, config: Config) -> bool:
    return config.release_after is not None and time() - handoff.last_at > config.release_after


async def _to_desk(message: Message, channels: Channels) -> bool:
    """Whether the platform's own desk took the talk."""
    if not channels.has_desk(message):
        return False
    try:
        await channels.hand_over(message)
    except ConnectorError as error:
        log.error("the platform's desk did not take a talk", bot=message.bot, problem=error.problem)
        return False
    return True


async def _note_heard(handoff: Handoff, handoffs: Handoffs) -> None:
    """Remember when the customer was last heard; a database that is away must not make the bot speak."""
    try:
        await handoffs.change(replace(handoff, last_at=time()))
    except BotError as error:
        log.error("cannot note when a customer was last heard", number=handoff.number, problem=str(error))


async def _give_back(
    over: Sequence[Handoff], handoffs: Handoffs, channels: Channels, catalogue: Catalogue
) -> None:
    """End what has lasted too long; what the platform does not let go is tried again later."""
    for handoff in over:
        try:
            if handoff.by_platform:
                await channels.take_back(handoff.connector, handoff.bot, handoff.chat)
            else:
                text = _text(catalogue, handoff, "handoff_released_staff")
                await _tell_staff(channels, text, f"handoff-{handoff.number}-over")
            await handoffs.close(handoff, by="time", trace="", now=time())
        except BotError as error:
            log.error("a talk cannot be given back", number=handoff.number, problem=str(error))


async def _tell_staff(channels: Channels, text: str, key: str) -> bool:
    """Whether any of the staff chats will get the text."""
    told = [await _tell(channels, chat, text, key) for chat in channels.staff]
    return any(told)


async def _tell(channels: Channels, chat: str, text: str, key: str) -> bool:
    try:
        await channels.send(chat, text, key=key)
    except BotError as error:
        log.error("a chat cannot be told of a hand-over", chat=chat, problem=str(error))
        return False
    return True


def _text(catalogue: Catalogue, handoff: Handoff, key: str, **fields: object) -> str:
    """A text for staff, in the customer's language."""
    known = {"number": handoff.number, "user": handoff.user_name}
    return catalogue.text(key, handoff.language, **known, **fields)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
