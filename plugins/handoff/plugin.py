"""转人工: hands a talk over to people who are told of it, and keeps the bot silent until it is given back.

Where the platform has a desk of its own, people work there; elsewhere the configured staff chats are told.
A message that is handled again after a crash finds what its first run left and completes it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from time import time

from bot import (
    Answer,
    Answered,
    Background,
    Catalogue,
    Channels,
    Facts,
    Memory,
    Message,
    Next,
    Reply,
    Session,
    Stream,
    to_me,
)
from bot.store import History, Step, Store
from plugins.handoff import commands as commands  # which register themselves
from plugins.handoff.base import STAFF, Config, plugin
from plugins.handoff.notes import Notes
from plugins.handoff.signs import Signs
from plugins.handoff.staff import Lines, tell, tell_staff, text_of, was_not_told
from plugins.handoff.tables import Handoff, Handoffs
from plugins.handoff.talks import Talks, joined, wanted
from plugins.handoff.tone import is_angry
from plugins.handoff.wish import wish

KEPT = 90 * 86400.0
"""Seconds that a closed hand-over is kept."""
BACK = ("bot", "机器人")
REASONS = ("asked", "misses", "unsure", "vote", "tone", "plugin", "platform")
_BACK = re.compile(rf"[/／](?:{'|'.join(BACK)})(?:\s|$)", re.IGNORECASE)


@plugin.startup
async def load(
    store: Store,
    memory: Memory,
    channels: Channels,
    catalogue: Catalogue,
    background: Background,
    config: Config,
) -> None:
    """Take up what is open, and what staff are still to be told of it."""
    handoffs = Handoffs(store, memory)
    await handoffs.load()
    await Signs(store, memory, config.automatic).load()
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
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str | None:
    """Give the talk of a customer who wants a person to the platform's desk, else tell the staff chats."""
    if not wish(message.text, config.words):
        return None
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    return await talks.hand_over(message, session, "asked")


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
        await handoffs.begin(wanted(message, session, "platform", by_platform=True))
    elif holder in ("bot", "nobody") and handoff is not None and handoff.by_platform:
        await handoffs.close(handoff, by="platform", trace=message.trace, now=time())


@plugin.event("feedback")
async def voted(
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str | None:
    """Whom an answer did not help is offered a person, or given one."""
    handoffs, answered = Handoffs(store, memory), message.data.get("inbox_id")
    open_ = handoffs.open.get(session.key)
    if not config.automatic.vote or message.data.get("vote") not in (-1, "down"):
        return None
    if not isinstance(answered, int) or (open_ is not None and open_.trace != message.trace):
        return None
    if await history.round(message.connector, message.user.id, answered) is None:
        return None
    talks = Talks(handoffs, channels, catalogue, history, config)
    return await _call_people(talks, message, session, "vote")


@plugin.answered
def note_signs(answered: Answered, store: Store, memory: Memory, config: Config) -> list[Step]:
    """Count answers in a row that were none, or unsure."""
    if not answered.is_question:
        return []
    over = answered.session in Handoffs(store, memory).open
    return Signs(store, memory, config.automatic).noted(answered, over=over)


# -- while people have it -----------------------------------------------------------------------


@plugin.middleware(priority=5)
async def keep_silent(
    message: Message,
    next: Next,  # noqa: A002 - the name it is injected by
    facts: Facts,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
    background: Background,
) -> Answer:
    """Say nothing in a talk that people have, and pass on what the customer says; else see if people must."""
    handoffs = Handoffs(store, memory)
    talks = Talks(handoffs, channels, catalogue, history, config)
    handoff = handoffs.open.get(session.key)
    if handoff is not None and handoff.trace != message.trace:  # else it asked for it, before a crash
        if handoff.by_platform:
            if not await talks.with_people(handoff):
                await handoffs.close(handoff, by="platform", trace=message.trace, now=time())
                handoff = None
        elif talks.is_over(handoff):
            await talks.give_back(handoff)
            handoff = handoffs.open.get(session.key)
        if handoff is not None and not _is_for_the_bot(message, facts, handoff):
            lines = Lines(handoffs, channels, catalogue, background)
            return await _pass_on(message, session, handoff, lines, talks)
    answer = await next(message)
    if facts.roles.isdisjoint(STAFF):
        signs = Signs(store, memory, config.automatic)
        return await _see_if_people_must(answer, message, session, signs, talks)
    return answer


async def _pass_on(
    message: Message, session: Session, handoff: Handoff, lines: Lines, talks: Talks
) -> str | None:
    if not message.to_me:
        return None
    said = "" if handoff.by_platform else _said(message)
    await lines.add(handoff, said, message.trace)
    if said and wish(message.text, talks.config.words):
        return talks.place_in_line(handoff, session, "handoff_already")
    return None


async def _see_if_people_must(
    answer: Answer, message: Message, session: Session, signs: Signs, talks: Talks
) -> Answer:
    """The answer, with the talk handed over after it where it asks for that, or shows that it must be."""
    if answer is None or not message.to_me or wish(message.text, talks.config.words):
        return answer
    if not isinstance(answer, str | Reply):
        stream = answer if isinstance(answer, Stream) else Stream(answer)
        reason = _reason(message, session, stream.finished(""), signs, talks)
        more = await _call_people(talks, message, session, reason) if reason else None
        return stream if more is None else replace(stream, chunks=_and(stream.chunks, f"\n\n{more}"))
    reply = answer if isinstance(answer, Reply) else Reply(answer)
    reason = _reason(message, session, reply, signs, talks)
    more = await _call_people(talks, message, session, reason) if reason else None
    return answer if more is None else joined(reply, more)


def _reason(message: Message, session: Session, reply: Reply, signs: Signs, talks: Talks) -> str:
    """Why people are needed, "" where they are not."""
    if reply.hand_over:
        return reply.hand_over if reply.hand_over in REASONS else "plugin"
    if talks.config.automatic.mode == "off" or message.text.startswith(("/", "／")):
        return ""
    if talks.config.automatic.tone and is_angry(message.text):
        return "tone"
    return signs.reason(session.key, reply)


async def _call_people(talks: Talks, message: Message, session: Session, reason: str) -> str | None:
    """What the customer is told after the bot called people by itself, or instead of that."""
    if reason != "plugin" and talks.config.automatic.mode == "off":
        return None
    if reason != "plugin" and talks.config.automatic.mode == "offer":
        able = talks.channels.staff or talks.channels.has_desk(message)
        return session.text("handoff_offer") if able else None
    return await talks.hand_over(message, session, reason)


async def _and(chunks: AsyncIterator[str], more: str) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk
    yield more


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


# -- by the clock -------------------------------------------------------------------------------


@plugin.schedule("* * * * *")
async def remind(
    channels: Channels, catalogue: Catalogue, store: Store, memory: Memory, config: Config
) -> None:
    """Tell staff which talks nobody has taken in time."""
    rules, now = config.answering, time()
    if rules is None:
        return
    handoffs = Handoffs(store, memory)
    for handoff in handoffs.waiting:
        if handoff.due_at is None or now < handoff.due_at:
            continue
        minutes = round((now - handoff.asked_at) / 60)
        text = text_of(catalogue, handoff, "handoff_overdue", minutes=minutes, question=handoff.question)
        for chat in dict.fromkeys((*rules.remind, *channels.staff)):
            await tell(channels, chat, text, f"handoff-{handoff.number}-due-{handoff.reminders}")
        if not handoff.reminders:
            said = catalogue.text("handoff_busy", handoff.language)
            await tell(channels, handoff.place, said, f"handoff-{handoff.number}-busy")
        again = config.hours.after(now, rules.first_reply) if handoff.reminders + 1 < rules.times else None
        await handoffs.change(handoff, reminders=handoff.reminders + 1, due_at=again)


@plugin.schedule("*/10 * * * *")
async def tidy(
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
    background: Background,
) -> None:
    """Tell staff what still waits, give back what nobody goes on with, forget what was closed long ago."""
    handoffs = Handoffs(store, memory)
    talks = Talks(handoffs, channels, catalogue, history, config)
    for handoff in list(handoffs.open.values()):
        await Lines(handoffs, channels, catalogue, background).tell(handoff)
        if talks.is_over(handoff):
            await talks.give_back(handoff)
        elif handoff.waits and await was_not_told(channels, f"handoff-{handoff.trace}"):
            contact = catalogue.text("contact", handoff.language)
            said = catalogue.text("handoff_nobody", handoff.language, contact=contact)
            await tell(channels, handoff.place, said, f"handoff-{handoff.number}-nobody")
            await handoffs.close(handoff, by="nobody", trace="", now=time())
    await handoffs.forget(time() - KEPT)
    await Notes(store).expire(time() - KEPT)
    await Signs(store, memory, config.automatic).expire(time() - KEPT)


def _said(message: Message) -> str:
    """What staff read of a message: its text, and which media came with it."""
    media = [part for part in message.segments if part.type not in ("text", "mention")]
    return "\n".join(filter(None, [message.text, *(f"[{part.type}] {part.text}".rstrip() for part in media)]))


def _is_for_the_bot(message: Message, facts: Facts, handoff: Handoff) -> bool:
    """Staff's commands always are; of the customer's only the way back, where the bot may open it."""
    if not facts.roles.isdisjoint(STAFF) and message.text.startswith(("/", "／")):
        return True
    return not handoff.by_platform and _BACK.match(message.text) is not None
