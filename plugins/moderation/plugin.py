"""Keeps sensitive words out of what comes in and goes out, personal data out of the history, and users away.

A message passes here before any other plugin sees it, and its answer after all of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time

import structlog

from bot import (
    Answer,
    Channels,
    Facts,
    Memory,
    Message,
    Next,
    Plugin,
    Reply,
    Session,
    mask_personal_data,
    role,
)
from bot.store import Audit, Store, Tally
from plugins.moderation.blocking import blocked_now, describe, parse_block, whom
from plugins.moderation.config import Config
from plugins.moderation.lexicon import Lexicon, masked
from plugins.moderation.screening import AT_ONCE, Outgoing, screen_message
from plugins.moderation.state import State, read_files, state_of
from plugins.moderation.tables import Block, Blocks
from plugins.moderation.words import Word

__all__ = ["Config", "plugin"]

log = structlog.get_logger(__name__)
STAFF = frozenset({"admins", "agents"})
MEASURE = "moderated"
AUTOMATIC = "moderation"
"""Who blocks a user that had too many messages blocked."""
LONGEST = 32_768
"""Characters of a text that are kept where personal data are masked: only a refused message has more."""
_TELL_AGAIN = 86400.0
_LISTED = 50

plugin = Plugin(
    "moderation",
    config=Config,
    help="keeps sensitive words and unwelcome users away",
    tables=Path(__file__).parent / "migrations",
)


@plugin.startup
async def load(store: Store, memory: Memory, channels: Channels, config: Config) -> None:
    """Read the words and who is blocked."""
    state = state_of(memory)
    await read_files(state, config)
    blocks = Blocks(store)
    await blocks.load()
    state.blocks = blocks
    for identity in config.blocked:
        name = identity.partition(":")[0]
        if channels.platform(name) is None:
            log.warning(
                "a blocked user is of no connector", key="plugins.moderation.blocked", identity=identity
            )


@plugin.kept
def keep(args: str, memory: Memory, config: Config) -> str:
    """What the history keeps: no personal data, and no words that came in with a blocked message."""
    lexicon = state_of(memory).lexicon
    if lexicon is not None and len(args) <= 2 * AT_ONCE:
        args = masked(args, lexicon.hits(args))
    return mask_personal_data(args[:LONGEST]) if config.mask_history else args


@plugin.heard
def hear(message: Message, facts: Facts, memory: Memory, config: Config) -> Message | None:
    """What answers a question of the bot; what is to be turned away is left to the middleware."""
    state, is_staff = state_of(memory), _is_staff(facts)
    if not is_staff and blocked_now(state, config, message):
        return None
    if state.lexicon is None:
        return message
    hits = state.lexicon.hits(message.text)
    if not hits:
        return message
    if not is_staff and any(hit.word.action == "block" for hit in hits):
        return None
    return replace(message, text=masked(message.text, hits))


@plugin.middleware(priority=1)
async def moderate(
    message: Message,
    next: Next,  # noqa: A002 - the name it is injected by
    facts: Facts,
    session: Session,
    memory: Memory,
    store: Store,
    config: Config,
) -> Answer:
    """Turn away who is blocked, and screen the message and its answer."""
    state = state_of(memory)
    is_staff = _is_staff(facts)
    if not is_staff and blocked_now(state, config, message):
        return await _turn_away(state, message, session, store, config)
    if state.lexicon is None:
        return await next(message)
    seen, found = await screen_message(state.lexicon, message)
    if found.found:
        await store.write(Tally.add(time(), _place(message), MEASURE, "word"))
    if found.blocked is not None and not is_staff:
        return await _refuse(state, message, session, store, config, found.blocked)
    return await _outgoing(state.lexicon, message, session, store).answer(await next(seen))


@plugin.said
async def say(reply: Reply, message: Message, session: Session, memory: Memory, store: Store) -> Reply:
    """What a plugin says or asks beside its answer."""
    lexicon = state_of(memory).lexicon
    return reply if lexicon is None else await _outgoing(lexicon, message, session, store).reply(reply)


async def _turn_away(
    state: State, message: Message, session: Session, store: Store, config: Config
) -> Reply | None:
    """Say nothing to somebody who is blocked, or once a day why."""
    await store.write(Tally.add(time(), _place(message), MEASURE, "blocked_user"))
    if not config.tell_blocked or not message.to_me:
        return None
    if not state.told.take(0, f"{message.bot}:{message.user.id}", _TELL_AGAIN):
        return None
    return Reply(session.text("moderation_blocked_user", contact=session.text("contact")))


async def _refuse(
    state: State, message: Message, session: Session, store: Store, config: Config, word: Word
) -> Reply | None:
    """Answer in the place of all handlers; whoever does it again and again is not listened to for a while."""
    log.info("a message was blocked", category=word.category or "word", user=message.user.id)
    if not message.to_me:
        return None
    mute, now = config.mute, time()
    user = (message.bot, message.user.id)
    if mute.after is None or not state.strikes.add(user, now, after=mute.after, within=mute.within):
        return Reply(session.text("moderation_refused"))
    block = Block(*user, message.connector, now + mute.lasts, AUTOMATIC, now)
    await _blocks(state).put(block, Audit.add(AUTOMATIC, "block", block.identity, f"{mute.after} messages"))
    return Reply(session.text("moderation_muted", minutes=max(1, round(mute.lasts / 60))))


def _outgoing(lexicon: Lexicon, message: Message, session: Session, store: Store) -> Outgoing:
    return Outgoing(
        lexicon,
        session.text("moderation_withheld", contact=session.text("contact")),
        session.text("moderation_cut"),
        lambda word: _count_answer(store, message, word),
    )


async def _count_answer(store: Store, message: Message, word: Word | None) -> None:
    if word is not None:
        log.warning("an answer was blocked", category=word.category or "word")
    await store.write(Tally.add(time(), _place(message), MEASURE, "out_word"))


# -- what admins do -----------------------------------------------------------------------------


@plugin.command("block", "拉黑", help="command_block", rules=[role("admins")])
async def block(args: str, message: Message, session: Session, memory: Memory, channels: Channels) -> str:
    """Listen no more to a user, for so many minutes or until unblocked."""
    parsed = parse_block(args)
    if parsed is None:
        return session.text("moderation_usage")
    given, minutes = parsed
    bot, user, platform = whom(given, message, channels)
    now = time()
    until = None if minutes is None else now + minutes * 60
    made = Block(bot, user, platform, until, f"{message.bot}:{message.user.id}", now)
    detail = "" if minutes is None else f"{minutes} minutes"
    await _blocks(state_of(memory)).put(made, Audit.add(message, "block", made.identity, detail))
    return describe(made, session, now)


@plugin.command("unblock", "解除拉黑", help="command_unblock", rules=[role("admins")])
async def unblock(
    args: str, message: Message, session: Session, memory: Memory, channels: Channels, config: Config
) -> str:
    """Listen to a user again."""
    parsed = parse_block(args)
    if parsed is None or parsed[1] is not None:
        return session.text("moderation_usage")
    bot, user, _ = whom(parsed[0], message, channels)
    identity, blocks = f"{bot}:{user}", _blocks(state_of(memory))
    if blocks.find(bot, user, time()) is None:
        key = "moderation_by_config" if identity in config.blocked else "moderation_not_blocked"
        return session.text(key, user=identity)
    await blocks.end(bot, user, Audit.add(message, "unblock", identity))
    return session.text("moderation_unblocked", user=identity)


@plugin.command("blocks", "黑名单", help="command_blocks", rules=[role("admins")])
async def list_blocks(
    message: Message, session: Session, memory: Memory, store: Store, config: Config
) -> str:
    """Who is not listened to."""
    now = time()
    lines = [describe(item, session, now) for item in _blocks(state_of(memory)).all(now)]
    lines += [session.text("moderation_by_config", user=identity) for identity in config.blocked]
    await Audit(store).note(message, "blocks")
    if not lines:
        return session.text("moderation_none")
    more = [f"… +{len(lines) - _LISTED}"] if len(lines) > _LISTED else []
    return "\n".join([*lines[:_LISTED], *more])


@plugin.schedule("17 * * * *")
async def tidy(memory: Memory) -> None:
    """Forget blocks that are over."""
    await _blocks(state_of(memory)).forget(time())


# -- the pieces ---------------------------------------------------------------------------------


def _is_staff(facts: Facts) -> bool:
    return not STAFF.isdisjoint(facts.roles)


def _blocks(state: State) -> Blocks:
    assert state.blocks is not None, "the plugin was started"
    return state.blocks


def _place(message: Message) -> str:
    return f"{message.bot}:{message.chat.id}"
