"""What the plugin knows while the bot runs, before and after it is loaded again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from bot import ConfigError, Cooldowns, Memory
from plugins.moderation.config import Config
from plugins.moderation.lexicon import Lexicon
from plugins.moderation.strikes import Strikes
from plugins.moderation.tables import Blocks
from plugins.moderation.words import read_words

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class State:
    """The words, None where there are none; who is blocked, counted, and told so.

    `read`: whether the files could be read once.
    """

    lexicon: Lexicon | None = None
    blocks: Blocks | None = None
    strikes: Strikes = field(default_factory=Strikes)
    told: Cooldowns = field(default_factory=Cooldowns)
    read: bool = False


def state_of(memory: Memory) -> State:
    """The one of the running bot."""
    return memory.keep("state", State)


async def read_files(state: State, config: Config) -> None:
    """Take the words of the files.

    Raises ConfigError where the bot starts; later the words known before stay, since broken files must not
    let everything pass.
    """
    try:
        state.lexicon = await asyncio.to_thread(_build, config)
    except ConfigError as error:
        if not state.read:
            raise
        log.error("the sensitive words stay as they were", problem=str(error))
    state.read = True


def _build(config: Config) -> Lexicon | None:
    words = read_words(config.files, config.action, pinyin=config.pinyin)
    return Lexicon(words) if words else None
