"""Sensitive words in both directions, blocked and muted users, and no personal data in the history."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from bot import (
    Answer,
    ConfigPath,
    Facts,
    Memory,
    Message,
    Next,
    Plugin,
    Reply,
    Session,
    Stream,
    mask,
    parse_duration,
    role,
)
from bot.store import Audit, Step, Store, Tally
from plugins.moderation.files import read_words
from plugins.moderation.streaming import HidingStream
from plugins.moderation.tables import Blocks
from plugins.moderation.words import Action, Words

STAFF = ("agents", "admins")
REMEMBERED = 10_000
"""Users whose refused messages are counted; the oldest are forgotten first."""
_Identity = Annotated[str, StringConstraints(pattern=r"^[^\s:]+:\S+$")]
_Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class Mute(BaseModel, extra="forbid"):
    """Who sends so many refused messages within a time hears nothing for a while."""

    after: Annotated[int, Field(ge=1)] = 3
    within: _Duration = 600.0
    lasts: _Duration = 1800.0


class Config(BaseModel, extra="forbid"):
    """Lists of words and what is done about them, who is kept out, and what the history does not keep."""

    files: list[ConfigPath] = []
    action: Action = "block"
    pinyin: bool = False
    blocked: list[_Identity] = []
    mute: Mute | None = Mute()
    mask_history: bool = True


plugin = Plugin(
    "moderation",
    config=Config,
    help="keeps sensitive words and blocked users out",
    tables=Path(__file__).parent / "migrations",
)


@dataclass(slots=True)
class State:
    """The compiled lists, and when users' messages were refused."""

    words: Words = field(default_factory=lambda: Words(()))
    refused: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)


@plugin.startup
async def load(store: Store, memory: Memory, config: Config) -> None:
    """Compile the lists, and take up who is blocked. Raises DataError."""
    state = memory.keep("state", State)
    words = await asyncio.to_thread(read_words, config.files, config.action)
    state.words = await asyncio.to_thread(Words, words, pinyin=config.pinyin)
    await Blocks(store, memory).load()


@plugin.middleware(priority=1)
async def moderate(
    message: Message,
    next: Next,  # noqa: A002 - the name it is injected by
    facts: Facts,
    session: Session,
    store: Store,
    memory: Memory,
    config: Config,
) -> Answer:
    """Turn away what must not come in, and hide in the answer what must not go out."""
    state = memory.keep("state", State)
    if facts.roles.isdisjoint(STAFF):
        if _until(message, Blocks(store, memory), config) is not None:
            await store.write(_counted(message, "blocked_user"))
            return None
        hidden, found = state.words.hide(message.text)
        if any(one.word.action == "block" for one in found):
            return await _refuse(message, session, store, memory, config) if message.to_me else None
        if found:
            await store.write(_counted(message, "word"))
            message = replace(message, text=hidden)
    answer = await next(message)
    return await _hide(answer, state.words, message, store) if len(state.words) else answer


@plugin.kept
def keep(args: str, config: Config) -> str:
    """What tells who somebody is does not stay in the history."""
    return mask(args) if config.mask_history else args


@plugin.schedule("17 * * * *")
async def tidy(store: Store, memory: Memory) -> None:
    """Forget blocks that are over."""
    await Blocks(store, memory).tidy()


# -- what admins say ----------------------------------------------------------------------------


@plugin.command("block", "拉黑", help="command_block", rules=[role("admins")])
async def block(args: str, message: Message, session: Session, store: Store, memory: Memory) -> str:
    """Keep user `args` ("connector:id", perhaps with a duration) out."""
    name, _, lasts = args.strip().partition(" ")
    try:
        until = time() + parse_duration(lasts.strip()) if lasts.strip() else None
    except ValueError:
        return session.text("moderation_block_usage")
    if not _is_name(name):
        return session.text("moderation_block_usage")
    by = f"{message.bot}:{message.user.id}"
    await Blocks(store, memory).block(name, until, by, Audit.add(message, "block", name, lasts.strip()))
    return session.text("moderation_blocked_user", user=name)


@plugin.command("unblock", "解除拉黑", help="command_unblock", rules=[role("admins")])
async def unblock(args: str, message: Message, session: Session, store: Store, memory: Memory) -> str:
    """Let user `args` in again."""
    name = args.strip()
    done = await Blocks(store, memory).unblock(name, Audit.add(message, "unblock", name))
    return session.text("moderation_unblocked" if done else "moderation_not_blocked", user=name)


@plugin.command("blocks", "黑名单", help="command_blocks", rules=[role("admins")])
async def list_blocks(session: Session, store: Store, memory: Memory, config: Config) -> str:
    """Who is kept out, and for how long."""
    blocked = {**Blocks(store, memory).all(), **dict.fromkeys(config.blocked, math.inf)}
    lines = [
        name
        if until == math.inf
        else session.text("moderation_block_item", user=name, minutes=math.ceil((until - time()) / 60))
        for name, until in blocked.items()
    ]
    return "\n".join(lines) or session.text("moderation_no_blocks")


# -- the pieces ---------------------------------------------------------------------------------


async def _refuse(
    message: Message, session: Session, store: Store, memory: Memory, config: Config
) -> str | None:
    """Say why, and mute who goes on and on."""
    steps = [_counted(message, "word")]
    if config.mute is None or not _is_once_too_often(message, memory.keep("state", State), config.mute):
        await store.write(*steps)
        return session.text("moderation_refused")
    name = f"{message.bot}:{message.user.id}"
    steps.append(_counted(message, "muted"))
    await Blocks(store, memory).block(name, time() + config.mute.lasts, plugin.name, *steps)
    return session.text("moderation_muted", minutes=math.ceil(config.mute.lasts / 60))


def _is_once_too_often(message: Message, state: State, mute: Mute) -> bool:
    name, now = f"{message.bot}:{message.user.id}", time()
    times = state.refused.setdefault(name, deque())
    state.refused.move_to_end(name)
    while len(state.refused) > REMEMBERED:
        state.refused.popitem(last=False)
    times.append(now)
    while times[0] <= now - mute.within:
        times.popleft()
    if len(times) < mute.after:
        return False
    del state.refused[name]
    return True


def _until(message: Message, blocks: Blocks, config: Config) -> float | None:
    """Until when a sender is kept out, by the name of its connector or of the platform."""
    for name in (f"{message.bot}:{message.user.id}", f"{message.connector}:{message.user.id}"):
        until = math.inf if name in config.blocked else blocks.until(name)
        if until is not None:
            return until
    return None


async def _hide(answer: Answer, words: Words, message: Message, store: Store) -> Answer:
    """The answer without the words; one that grows is shown as far as none can begin."""
    if answer is None:
        return None
    if isinstance(answer, str):
        answer = Reply(answer)
    if isinstance(answer, Reply):
        text, found = words.hide(answer.text)
        if found:
            await store.write(_counted(message, "out_word"))
        return replace(answer, text=text, choices=tuple(words.hide(one)[0] for one in answer.choices))
    stream = answer if isinstance(answer, Stream) else Stream(answer)
    return replace(stream, chunks=_hide_chunks(stream.chunks, words, message, store))


async def _hide_chunks(
    chunks: AsyncIterator[str], words: Words, message: Message, store: Store
) -> AsyncIterator[str]:
    hiding = HidingStream(words)
    async for chunk in chunks:
        yield hiding.push(chunk)
    yield hiding.end()
    if hiding.found:
        await store.write(_counted(message, "out_word"))


def _counted(message: Message, rule: str) -> Step:
    return Tally.add(time(), f"{message.bot}:{message.chat.id}", "moderated", rule)


def _is_name(text: str) -> bool:
    connector, colon, who = text.partition(":")
    return bool(connector and colon and who) and not any(map(str.isspace, text))
