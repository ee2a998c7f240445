"""What staff say to the bot about talks; every use is recorded, and done once however often it is handled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import time

from bot import (
    Background,
    Catalogue,
    Channels,
    Chat,
    Memory,
    Message,
    Session,
    private,
    role,
)
from bot.store import Audit, History, Store
from plugins.handoff.base import STAFF, Config, plugin
from plugins.handoff.notes import SHOWN, Notes, transcript
from plugins.handoff.staff import Lines
from plugins.handoff.tables import Handoff, Handoffs
from plugins.handoff.talks import Talks, cut

_LISTED = 40
"""Characters that a list shows of a question, or an answer of a name that is wrong."""
_staff = [role(*STAFF)]


@plugin.command("claim", "认领", help="command_claim", rules=_staff)
async def claim(
    args: str, message: Message, session: Session, history: History, store: Store, memory: Memory
) -> str:
    """Take hand-over `args`: its customer's messages come to this chat from now on."""
    handoffs = Handoffs(store, memory)
    handoff = _named(handoffs, args)
    if handoff is None or handoff.by_platform:
        return session.text("handoff_unknown", number=_name(args))
    me = _who(message)
    if handoff.agent not in ("", me):
        return session.text("handoff_claimed_by", number=handoff.number, agent=handoff.agent)
    if handoff.agent != me:
        audit = Audit.add(message, "claim", str(handoff.number))
        handoff = await handoffs.take(handoff, me, _where(message), time(), audit)
    shown = await _shown(handoff, session, history, Notes(store))
    return session.text("handoff_claimed", number=handoff.number, user=handoff.user_name, talk=shown)


@plugin.command("reply", "回复", help="command_reply", rules=_staff)
async def reply(
    args: str,
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str:
    """Answer the customer of a hand-over: its number, then the text."""
    number, text = _number_and_text(args)
    if not text:
        return session.text("handoff_reply_usage")
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    return await _answer(talks, talks.handoffs.numbered(number), text, message, session)


@plugin.regex(r"^#(\d{1,18})\s+(.+)", flags=re.DOTALL, rules=[role(*STAFF)], priority=4)
async def reply_by_number(
    match: re.Match[str],
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str | None:
    """`#3 text` is the same as `/reply 3 text`, where there is such a talk."""
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    handoff = talks.handoffs.numbered(int(match[1]))
    return None if handoff is None else await _answer(talks, handoff, match[2], message, session)


@plugin.message(private, role(*STAFF), priority=4)
async def reply_in_private(
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str | None:
    """In private with the bot, what somebody says who has just one talk there is meant for its customer."""
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    mine = talks.handoffs.of_agent(_who(message), _where(message))
    if not mine or not message.text.strip():
        return session.text("handoff_no_media") if mine else None
    if len(mine) > 1:
        return session.text("handoff_which", numbers=", ".join(f"#{one.number}" for one in mine))
    return await _answer(talks, mine[0], message.text, message, session)


@plugin.command("canned", "快捷", help="command_canned", rules=_staff)
async def canned(
    args: str,
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
) -> str:
    """Answer with a prepared text, by the hand-over's number and the text's name; alone it lists them."""
    number, name = _number_and_text(args)
    if name not in config.canned:
        names = "\n".join(f"{name}: {cut(text, _LISTED)}" for name, text in config.canned.items())
        return session.text("handoff_canned", names=names or "-")
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    return await _answer(talks, talks.handoffs.numbered(number), config.canned[name], message, session)


@plugin.command("note", "备注", help="command_note", rules=_staff)
async def note(args: str, message: Message, session: Session, store: Store, memory: Memory) -> str:
    """Note something about a hand-over, for staff only."""
    number, text = _number_and_text(args)
    if not text or Handoffs(store, memory).numbered(number) is None:
        return session.text("handoff_unknown", number=number or "?")
    await Notes(store).add(number, text, message, time())
    return session.text("handoff_noted", number=number)


@plugin.command("show", "查看", help="command_show", rules=_staff)
async def show(
    args: str, session: Session, chat: Chat, history: History, store: Store, memory: Memory
) -> str:
    """What was said in a talk, what the bot's answers rested on, and what staff noted."""
    handoff = _named(Handoffs(store, memory), args)
    if handoff is None:
        return session.text("handoff_unknown", number=_name(args))
    return await _shown(handoff, session, history, Notes(store))


@plugin.command("release", "转回", help="command_release", rules=_staff)
async def release(
    args: str,
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
    background: Background,
) -> str:
    """Give hand-over `args` back to the bot, and tell the customer unless the platform does.

    What the platform will never give back is struck off.
    """
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    return await _end(talks, args, message, session, background, store, "handoff_released")


@plugin.command("close", "结束", help="command_close", rules=_staff)
async def close(
    args: str,
    message: Message,
    session: Session,
    channels: Channels,
    catalogue: Catalogue,
    history: History,
    store: Store,
    memory: Memory,
    config: Config,
    background: Background,
) -> str:
    """End hand-over `args`: all was said, and the bot answers what comes next."""
    talks = Talks(Handoffs(store, memory), channels, catalogue, history, config)
    return await _end(talks, args, message, session, background, store, "handoff_closed")


@plugin.command("handoffs", "人工列表", help="command_handoffs", rules=_staff)
async def list_open(session: Session, store: Store, memory: Memory) -> str:
    """The talks that people have, oldest first."""
    lines = [
        session.text(
            "handoff_list_item",
            number=handoff.number,
            channel=handoff.bot,
            user=handoff.user_name,
            minutes=round((time() - handoff.asked_at) / 60),
            question=cut(" ".join(handoff.question.split()), _LISTED),
        )
        + (f" — {handoff.agent}" if handoff.agent else "")
        for handoff in sorted(Handoffs(store, memory).open.values(), key=lambda handoff: handoff.number)
    ]
    return "\n".join(lines) or session.text("handoff_none")


# -- the pieces ---------------------------------------------------------------------------------


async def _answer(
    talks: Talks, handoff: Handoff | None, text: str, message: Message, session: Session
) -> str:
    """Say it to the customer; who answers first has the talk."""
    if handoff is None or handoff.by_platform:
        return session.text("handoff_unknown", number=handoff.number if handoff else "?")
    me, audit = _who(message), Audit.add(message, "reply", str(handoff.number))
    if handoff.agent not in ("", me):
        return session.text("handoff_claimed_by", number=handoff.number, agent=handoff.agent)
    if not handoff.agent:
        handoff = await talks.handoffs.take(handoff, me, _where(message), time(), audit)
    else:
        handoff = await talks.handoffs.change(handoff, audit, due_at=None)
    if not await talks.answer(handoff, text, f"handoff-{message.trace}"):
        return session.text("handoff_not_sent", number=handoff.number)
    return session.text("handoff_sent", number=handoff.number)


async def _end(
    talks: Talks,
    args: str,
    message: Message,
    session: Session,
    background: Background,
    store: Store,
    told: str,
) -> str:
    handoffs, named = talks.handoffs, _name(args)
    handoff, number = _named(handoffs, args), _number(named)
    said = "handoff_released_staff"
    if handoff is not None:
        await Lines(handoffs, talks.channels, talks.catalogue, background).tell(handoff)
        said = await talks.end(handoff, message, told)
        await Audit(store).note(message, told.removeprefix("handoff_"), str(number))
    elif not await handoffs.was_closed_by(number, message.trace):
        return session.text("handoff_unknown", number=named)
    return session.text(said, number=number)


async def _shown(handoff: Handoff, session: Session, history: History, notes: Notes) -> str:
    rounds = await history.rounds(handoff.session, SHOWN)
    noted: Sequence[str] = await notes.of(handoff.number)
    parts = [transcript(rounds, session.text("sources")), *(f"📝 {text}" for text in noted)]
    return "\n".join(filter(None, parts)) or handoff.question


def _named(handoffs: Handoffs, args: str) -> Handoff | None:
    return handoffs.numbered(_number(_name(args)))


def _name(args: str) -> str:
    return cut(args.strip().removeprefix("#"), _LISTED)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 19 else 0  # what a database can hold


def _number_and_text(args: str) -> tuple[int, str]:
    first, _, rest = args.strip().partition(" ")
    if "\n" in first:
        first, _, rest = args.strip().partition("\n")
    return _number(first.removeprefix("#")), rest.strip()


def _who(message: Message) -> str:
    return f"{message.bot}:{message.user.id}"


def _where(message: Message) -> str:
    return f"{message.bot}:{message.chat.id}"
