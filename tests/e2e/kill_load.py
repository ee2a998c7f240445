"""Load under which a bot is killed again and again, whatever the platform."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from tests.e2e.bot_process import BotProcess
from tests.e2e.platforms import News

CHATS = range(1, 9)
TEXTS = ("hello", "/slow", "/stream", "hello", "hello")
UNDER_WAY = 2
"""How many messages of a chat are unanswered at a time."""
SLOW = 0.1
"""Seconds a platform may take to confirm, so that a kill often hits a call in flight."""
kills = pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])


async def kill_under_load(
    bot: BotProcess,
    kills: int,
    chance: Random,
    news: News,
    answers: Callable[[int], int],
    talk: Callable[[int, int], Awaitable[None]],
    accepted: Callable[[], int],
) -> None:
    """Kill and start the bot while `talk(chat, number)` goes on in all chats.

    `answers` counts what came to a chat, `accepted` what the bot has confirmed. Every second kill comes
    early: while the bot starts, takes up what the last kill left, or has just begun. The others come once
    every chat has got something in this life, in the very moment in which the bot confirms a message.
    """
    enough = asyncio.Event()

    async def conversation(chat: int) -> None:
        for number in itertools.count():
            if enough.is_set():
                return
            await talk(chat, number)

    async def answered_everywhere() -> None:
        before = {chat: answers(chat) for chat in CHATS}
        await news.until(lambda: all(answers(chat) > before[chat] for chat in CHATS))

    async with asyncio.TaskGroup() as conversations:
        for chat in CHATS:
            conversations.create_task(conversation(chat))
        for number in range(kills):
            if number % 2:
                await asyncio.sleep(chance.uniform(0.2, 2.0))
            else:
                await bot.ready()
                await answered_everywhere()
                await asyncio.sleep(chance.uniform(0, 0.4))
                before = accepted()
                await news.until(lambda before=before: accepted() > before)
            await bot.kill()
            await bot.spawn()
        await bot.ready()
        await answered_everywhere()
        enough.set()


def whole_answer(text: str) -> str:
    """What the sample plugin says to a text, once it is finished."""
    if text.startswith("/stream "):
        return f"{text[1:]}: " + "".join(f"piece {number} of it, " for number in range(10)) + "the end"
    return text[1:] if text.startswith("/") else f"echo {text}"
