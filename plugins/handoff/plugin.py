"""转人工: a talk is with the bot, waits for people (queued), or people have it (human) until it is closed.

Where the platform has a desk of its own, people work there; elsewhere the configured staff chats are told,
and agents answer through the bot, which is silent meanwhile. A message that is handled again after a crash
finds what its first run left and completes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
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
    Plugin,
    Session,
    role,
    to_me,
)
from bot.store import History, Step, Store
from plugins.handoff.canned import read_canned
from plugins.handoff.config import Config
from plugins.handoff.relay import said_in, text_of
from plugins.handoff.staff import STAFF, Agent, is_staff
from plugins.handoff.switchboard import Switchboard
from plugins.handoff.tables import Handoff, keep_streak
from plugins.handoff.triggers import Streak
from plugins.handoff.watch import offer, steps_of, watch
from plugins.handoff.wish import wish

__all__ = ["Config", "plugin"]

KEPT = 90 * 86400.0
"""Seconds that a closed hand-over is kept."""
BACK = ("bot", "机器人")
_BACK = re.compile(rf"[/／](?:{'|'.join(BACK)})(?:\s|$)", re.IGNORECASE)
_SWITCHBOARD = "switchboard"

plugin = Plugin(
    "handoff",
    config=Config,
    help="hands a talk over to people",
    tables=Path(__file__).parent / "migrations",
)


@plugin.startup
async def load(
    store: Store,
    memory: Memory,
    history: History,
    channels: Channels,
    catalogue: Catalogue,
    background: Background,
    config: Config,
) -> None:
    """Take up what is open, and what staff are still to be told of it."""
    canned = config.canned
    if config.canned_file is not None:
        canned = canned | await asyncio.to_thread(read_canned, config.canned_file)
    board = Switchboard(store, memory, history, channels, catalogue, background, config, canned)
    memory.keep(_SWITCHBOARD, dict[str, Switchboard])[_SWITCHBOARD] = board
    await board.handoffs.load()
    for handoff in board.handoffs.open.values():
        if handoff.unsaid:
            board.lines.tell_soon(handoff)


def switchboard(memory: Memory) -> Switchboard:
    """The one that was made when the plugin was loaded last."""
    return memory.keep(_SWITCHBOARD, dict[str, Switchboard])[_SWITCHBOARD]


# -- from the bot to people ---------------------------------------------------------------------


@plugin.message(to_me, priority=5)
async def hand_over(message: Message, session: Session, memory: Memory, config: Config) -> str | None:
    """Give the talk of a customer who wants a person to the platform's desk, else tell the staff chats."""
    if not wish(message.text, config.words):
        return None
    board = switchboard(memory)
    offered = (await board.handoffs.streak(session.key)).now(time()).offered
    return await board.hand_over(message, session, offered or "asked")


@plugin.message(to_me, priority=30)
async def nobody(message: Message, session: Session, config: Config) -> str | None:
    """Nobody could be told: after the FAQ, which may know a better way than the contact does."""
    if not wish(message.text, config.words):
        return None
    return session.text("handoff_nobody", contact=session.text("contact"))


@plugin.event("session")
async def follow(message: Message, session: Session, memory: Memory) -> None:
    """The platform's desk took the talk, or it is not there any more."""
    await switchboard(memory).follow(message, session, message.data.get("holder"))


@plugin.event("feedback")
async def thumbs_down(
    message: Message, session: Session, store: Store, memory: Memory, config: Config
) -> None:
    """A customer to whom an answer was of no help is offered a person, or gets one."""
    board, mode = switchboard(memory), config.automatic.vote
    if message.data.get("vote") not in (-1, "down") or mode == "off" or not board.can_hand_over(message):
        return
    rounds = await board.history.rounds(session.key, 50)
    voted = next((item for item in rounds if item.inbox_id == message.data.get("inbox_id")), None)
    handoff = board.handoffs.open.get(session.key)
    if voted is None or (handoff is not None and handoff.trace != message.trace):
        return
    if mode == "hand_over" and (handoff is not None or not board.is_away()):
        source = next(iter(voted.sources), "")
        text = await board.hand_over(message, session, "vote", source)
        if text is not None:
            await session.say(text)
        return
    now = time()
    if (await board.handoffs.streak(session.key)).now(now).offered == "vote":
        return
    await session.say(offer(session, "vote"))
    await store.write(keep_streak(Streak(offered="vote", at=now), session.key, message))


@plugin.answered
async def remember(answered: Answered, memory: Memory) -> Sequence[Step]:
    """How the bot does in a talk, so that two misses in a row are known as such after a restart."""
    return await steps_of(switchboard(memory), answered)


# -- while people have it -----------------------------------------------------------------------


@plugin.middleware(priority=5)
async def stand_by(
    message: Message,
    next: Next,  # noqa: A002 - the name it is injected by
    facts: Facts,
    session: Session,
    memory: Memory,
    config: Config,
) -> Answer:
    """Say nothing in a talk that people have, and pass on what either side says."""
    board = switchboard(memory)
    handoff = await _still_open(board, session, message)
    if handoff is None or handoff.trace == message.trace:  # the latter asked for it, before a crash
        if is_staff(facts):
            return await _for_staff(board, message, next, facts, session)
        answer = await next(message)
        return await watch(board, message, session, answer) if message.to_me else answer
    if _is_for_the_bot(message, facts, handoff):
        return await next(message)
    if not message.to_me:
        return None
    said = "" if handoff.by_platform else said_in(message)
    if not await board.lines.add(handoff, said, message.trace):
        return await next(message)
    if not said:
        return None
    if wish(message.text, config.words):
        return board.again(handoff, session)
    if handoff.state == "queued" and not handoff.told_away and board.is_away():
        await board.handoffs.change(handoff, told_away=True)
        return board.away(session)
    return None


async def _for_staff(
    board: Switchboard,
    message: Message,
    next: Next,  # noqa: A002
    facts: Facts,
    session: Session,
) -> Answer:
    """What an agent says in private is for the customer whose talk he took there, unless it is a command."""
    agent = Agent(board, message, session, facts)
    held = agent.held()
    if held and not message.text.startswith(("/", "／")):
        return await agent.say_plainly(held)
    return await next(message)


# -- back to the bot ----------------------------------------------------------------------------


@plugin.command(*BACK, help="command_bot")
async def back(message: Message, session: Session, memory: Memory) -> str:
    """The customer has enough of waiting."""
    board = switchboard(memory)
    handoff = board.handoffs.open.get(session.key)
    if handoff is not None:
        await board.lines.tell(handoff)
        text = text_of(board.catalogue, handoff, "handoff_released_staff")
        await board.tell_staff(handoff, text, f"handoff-{message.trace}")
        await board.end(handoff, by="customer", trace=message.trace)
    return session.text("handoff_back")


# -- what agents do -----------------------------------------------------------------------------


def _agent(message: Message, session: Session, memory: Memory, facts: Facts) -> Agent | None:
    """The agent at work; None in a chat with customers."""
    agent = Agent(switchboard(memory), message, session, facts)
    return agent if agent.is_at_work else None


@plugin.command("claim", "认领", help="command_claim", rules=[role(*STAFF)])
async def claim(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str:
    """Take a talk, and see what was said in it."""
    agent = _agent(message, session, memory, facts)
    return await agent.claim(args) if agent else session.text("handoff_elsewhere")


@plugin.command("reply", "回复", help="command_reply", rules=[role(*STAFF)])
async def reply(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str | None:
    """Answer a customer in the bot's voice."""
    agent = _agent(message, session, memory, facts)
    return await agent.reply(args) if agent else session.text("handoff_elsewhere")


@plugin.command("canned", "快捷", help="command_canned", rules=[role(*STAFF)])
async def canned(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str | None:
    """Answer a customer with a prepared text, or list them."""
    agent = _agent(message, session, memory, facts)
    return await agent.canned(args) if agent else session.text("handoff_elsewhere")


@plugin.command("note", "备注", help="command_note", rules=[role(*STAFF)])
async def note(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str:
    """Write down something for other agents."""
    agent = _agent(message, session, memory, facts)
    return await agent.note(args) if agent else session.text("handoff_elsewhere")


@plugin.command("release", "转回", help="command_release", rules=[role(*STAFF)])
async def release(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str:
    """Give a talk back to the bot."""
    agent = _agent(message, session, memory, facts)
    return await agent.end(args, release=True) if agent else session.text("handoff_elsewhere")


@plugin.command("close", "结束", help="command_close", rules=[role(*STAFF)])
async def close(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str:
    """End a talk that is done."""
    agent = _agent(message, session, memory, facts)
    return await agent.end(args, release=False) if agent else session.text("handoff_elsewhere")


@plugin.command("handoffs", "人工列表", help="command_handoffs", rules=[role(*STAFF)])
async def list_open(args: str, message: Message, session: Session, memory: Memory, facts: Facts) -> str:
    """The talks that wait or that people have."""
    agent = _agent(message, session, memory, facts)
    return await agent.list_open(args) if agent else session.text("handoff_elsewhere")


# -- by the clock -------------------------------------------------------------------------------


@plugin.schedule("* * * * *")
async def tick(memory: Memory) -> None:
    """Tell staff what still waits and what is due, give back what nobody goes on with, forget what is old."""
    board = switchboard(memory)
    for handoff in list(board.handoffs.open.values()):
        await board.lines.tell(handoff)
        if board.is_over(handoff):
            await board.give_back(handoff)
        else:
            await board.remind(handoff)
            await board.give_up(handoff)
    await board.handoffs.forget(time() - KEPT)


# -- the pieces ---------------------------------------------------------------------------------


async def _still_open(board: Switchboard, session: Session, message: Message) -> Handoff | None:
    """The open hand-over of a talk, unless it turns out to be over."""
    handoff = board.handoffs.open.get(session.key)
    if handoff is None or handoff.trace == message.trace:
        return handoff
    if handoff.by_platform:
        if not await board.with_people(handoff):
            await board.close(handoff, by="platform", trace=message.trace)
    elif board.is_over(handoff):
        await board.give_back(handoff)
    return board.handoffs.open.get(session.key)


def _is_for_the_bot(message: Message, facts: Facts, handoff: Handoff) -> bool:
    """Staff's commands always are; of the customer's only the way back, where the bot may open it."""
    if is_staff(facts) and message.text.startswith(("/", "／")):
        return True
    return not handoff.by_platform and _BACK.match(message.text) is not None
