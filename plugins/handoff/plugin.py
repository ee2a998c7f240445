"""转人工: hands a talk over to people who are told of it, and keeps the bot silent until it is given back.

Where the platform has a desk of its own, people work there; elsewhere the configured staff chats are told.
A message that is handled again after a crash finds what its first run left and completes it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Annotated

import structlog
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from bot import (
    Answer,
    Background,
    BotError,
    Catalogue,
    Channels,
    ConnectorError,
    Facts,
    Memory,
    Message,
    Next,
    Plugin,
    Session,
    Undeliverable,
    parse_duration,
    role,
    to_me,
)
from bot.store import Store
from plugins.handoff.staff import Lines, tell, tell_staff, text_of, was_not_told
from plugins.handoff.tables import Handoff, Handoffs
from plugins.handoff.wish import wish

log = structlog.get_logger(__name__)
KEPT = 90 * 86400.0
"""Seconds that a closed hand-over is kept."""
ASK_EVERY = 60.0
"""Seconds for which a platform's word that people have a talk is good."""
BACK = ("bot", "机器人")
STAFF = ("agents", "admins")
_BACK = re.compile(rf"[/／](?:{'|'.join(BACK)})(?:\s|$)", re.IGNORECASE)
_LONGEST, _LISTED = 500, 40
"""Characters of a question that are kept, and those that a list shows."""


class Config(BaseModel, extra="forbid"):
    """When a silent customer is the bot's again, and further phrases that ask for a person."""

    release_after: Annotated[float, BeforeValidator(parse_duration), Field(gt=0)] | None = 86400.0
    words: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = []


plugin = Plugin(
    "handoff",
    config=Config,
    help="hands a talk over to people",
    tables=Path(__file__).parent / "migrations",
)


@plugin.startup
async def load(
    store: Store, memory: Memory, channels: Channels, catalogue: Catalogue, background: Background
) -> None:
    """Take up what is open, and what staff are still to be told of it."""
    handoffs = Handoffs(store, memory)
    await handoffs.load()
    lines = Lines(handoffs, channels, catalogue, background)
    for handoff in handoffs.open.values():
        if handoff.unsaid:
            lines.tell_soon(handoff)


# -- from the bot to people ---------------------------------------------------------------------


@plugin.message(to_me, priority=5)
async def hand_over(
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    store: Store,
    memory: Memory,
    config: Config,
) -> str | None:
    """Give the talk of a customer who wants a person to the platform's desk, else tell the staff chats."""
    if not wish(message.text, config.words):
        return None
    handoffs = Handoffs(store, memory)
    wanted = _wanted(message, session, await _question(message, session))
    if await _to_desk(message, channels):
        await handoffs.begin(replace(wanted, by_platform=True))
        return session.text("handoff_started")
    if not channels.staff:
        return None
    handoff = await handoffs.begin(wanted)
    text = text_of(
        catalogue,
        handoff,
        "handoff_staff",
        chat=message.chat.title or message.chat.id,
        channel=message.bot,
        question=handoff.question,
    )
    if await tell_staff(channels, text, f"handoff-{message.trace}"):
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
async def follow(message: Message, session: Session, store: Store, memory: Memory) -> None:
    """The platform's desk took the talk, or it is not there any more."""
    handoffs = Handoffs(store, memory)
    holder, handoff = message.data.get("holder"), handoffs.open.get(session.key)
    if holder in ("waiting", "people"):
        await handoffs.begin(_wanted(message, session, "", by_platform=True))
    elif holder in ("bot", "nobody") and handoff is not None and handoff.by_platform:
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
    memory: Memory,
    config: Config,
    background: Background,
) -> Answer:
    """Say nothing in a talk that people have, and pass on to the staff chats what the customer says."""
    handoffs = Handoffs(store, memory)
    handoff = handoffs.open.get(session.key)
    if handoff is None or handoff.trace == message.trace:  # the latter asked for it, before a crash
        return await next(message)
    if handoff.by_platform:
        if not await _with_people(handoff, handoffs, channels):
            await handoffs.close(handoff, by="platform", trace=message.trace, now=time())
            return await next(message)
    elif _is_over(handoff, config):
        await _give_back(handoff, handoffs, channels, catalogue)
        if session.key not in handoffs.open:
            return await next(message)
    if _is_for_the_bot(message, facts, handoff):
        return await next(message)
    if not message.to_me:
        return None
    said = "" if handoff.by_platform else _said(message)
    await Lines(handoffs, channels, catalogue, background).add(handoff, said, message.trace)
    if not said:
        return None
    return session.text("handoff_already") if wish(message.text, config.words) else None


# -- back to the bot ----------------------------------------------------------------------------


@plugin.command(*BACK, help="command_bot")
async def back(
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    store: Store,
    memory: Memory,
    background: Background,
) -> str:
    """The customer has enough of waiting."""
    handoffs = Handoffs(store, memory)
    handoff = handoffs.open.get(session.key)
    if handoff is not None:
        await Lines(handoffs, channels, catalogue, background).tell(handoff)
        text = text_of(catalogue, handoff, "handoff_released_staff")
        await tell_staff(channels, text, f"handoff-{message.trace}")
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
    memory: Memory,
    background: Background,
) -> str:
    """Give hand-over `args` back to the bot, and tell the customer unless the platform does.

    What the platform will never give back is struck off.
    """
    handoffs = Handoffs(store, memory)
    named = _cut(args.removeprefix("#"), _LISTED)
    number = int(named) if named.isdecimal() and len(named) < 19 else 0  # what a database can hold
    handoff = next((item for item in handoffs.open.values() if item.number == number), None)
    said = "handoff_released_staff"
    if handoff is not None:
        await Lines(handoffs, channels, catalogue, background).tell(handoff)
        if handoff.by_platform:
            try:
                await channels.take_back(_chat(handoff))
            except Undeliverable as error:
                log.error("a platform will not give a talk back", number=number, problem=error.problem)
                said = "handoff_gone"
        else:
            text = catalogue.text("handoff_released", handoff.language)
            await tell(channels, _chat(handoff), text, f"handoff-{message.trace}")
        by = f"{message.bot}:{message.user.id}"
        await handoffs.close(handoff, by=by, trace=message.trace, now=time())
    elif not await handoffs.was_closed_by(number, message.trace):
        return session.text("handoff_unknown", number=named)
    return session.text(said, number=number)


@plugin.command("handoffs", "人工列表", help="command_handoffs", rules=[role(*STAFF)])
async def list_open(session: Session, store: Store, memory: Memory) -> str:
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
        for handoff in sorted(Handoffs(store, memory).open.values(), key=lambda handoff: handoff.number)
    ]
    return "\n".join(lines) or session.text("handoff_none")


@plugin.schedule("*/10 * * * *")
async def tidy(
    channels: Channels,
    catalogue: Catalogue,
    store: Store,
    memory: Memory,
    config: Config,
    background: Background,
) -> None:
    """Tell staff what still waits, give back what nobody goes on with, forget what was closed long ago."""
    handoffs = Handoffs(store, memory)
    for handoff in list(handoffs.open.values()):
        await Lines(handoffs, channels, catalogue, background).tell(handoff)
        if _is_over(handoff, config):
            await _give_back(handoff, handoffs, channels, catalogue)
        elif not handoff.by_platform and await was_not_told(channels, f"handoff-{handoff.trace}"):
            contact = catalogue.text("contact", handoff.language)
            said = catalogue.text("handoff_nobody", handoff.language, contact=contact)
            await tell(channels, _chat(handoff), said, f"handoff-{handoff.number}-nobody")
            await handoffs.close(handoff, by="nobody", trace="", now=time())
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


async def _with_people(handoff: Handoff, handoffs: Handoffs, channels: Channels) -> bool:
    """Whether the platform's desk has the talk, as far as it tells.

    It need not tell of an end by itself: WeCom's conversations just run out after 48 h.
    """
    seen = handoffs.held.seen
    if time() - seen.get(handoff.number, handoff.asked_at) < ASK_EVERY:
        return True
    seen[handoff.number] = time()
    try:
        return await channels.with_people(_chat(handoff))
    except ConnectorError as error:
        log.warning("a desk does not tell who has a talk", number=handoff.number, problem=error.problem)
        return True


async def _give_back(handoff: Handoff, handoffs: Handoffs, channels: Channels, catalogue: Catalogue) -> None:
    """End what has lasted too long, unless people have it at the platform's desk: only they end that."""
    try:
        if not handoff.by_platform:
            text = text_of(catalogue, handoff, "handoff_released_staff")
            await tell_staff(channels, text, f"handoff-{handoff.number}-over")
        elif await _with_people(handoff, handoffs, channels):
            return
        await handoffs.close(handoff, by="time", trace="", now=time())
    except BotError as error:
        log.error("a talk cannot be given back", number=handoff.number, problem=str(error))


def _chat(handoff: Handoff) -> str:
    """Where the customer is, as `Channels` names it."""
    return f"{handoff.bot}:{handoff.chat}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
