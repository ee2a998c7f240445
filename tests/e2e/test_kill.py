"""The process is killed at random moments under load: afterwards every accepted message has its reply."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import aiohttp
import pytest

from tests.e2e.bot_process import BotProcess, small_config
from tests.e2e.platforms import SECRET, TOKEN, BotApi, News, Receiver, Source

CHATS = range(1, 9)
TEXTS = ("hello", "/slow", "/stream", "hello", "hello")
UNDER_WAY = 2
"""How many messages of a chat are unanswered at a time."""
SLOW = 0.1
"""Seconds a platform may take to confirm, so that a kill often hits a call in flight."""
kills = pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])


@pytest.fixture
def chance() -> Random:
    """Random moments, repeatable by the seed that a failed test shows."""
    seed = secrets.randbits(32)
    print(f"seed: {seed}")  # noqa: T201
    return Random(seed)


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


@kills
async def test_a_webhook_gets_exactly_one_reply_to_each_message(
    tmp_path: Path, kills: int, chance: Random
) -> None:
    receiver = Receiver(chance, refuse=0.02, slow=SLOW)
    async with receiver.open() as reply_url, aiohttp.ClientSession() as client:
        webhook = {"type": "webhook", "name": "shop", "secret": SECRET, "reply_url": reply_url}
        bot = BotProcess(tmp_path, small_config(webhook))
        source = Source(f"{bot.base}/webhook/shop", client, receiver.news)

        def answers(chat: int) -> int:
            return receiver.by_chat[f"chat {chat}"]

        async def talk(chat: int, number: int) -> None:
            text = f"{TEXTS[number % len(TEXTS)]} {chat}-{number}"
            await source.say(f"msg_{chat}_{number}", f"chat {chat}", text)
            await receiver.news.until(lambda: answers(chat) > number - UNDER_WAY)

        async with bot:
            await kill_under_load(
                bot, kills, chance, receiver.news, answers, talk, lambda: len(source.acknowledged)
            )
            await receiver.news.until(lambda: all(map(receiver.answered, source.acknowledged)))
            assert await bot.unanswered() == 0
            bot.terminate()
            assert await bot.ended() == 0

    assert receiver.forged == 0
    for message_id, text in source.acknowledged.items():
        assert {reply.text for reply in receiver.replies[message_id]} == {whole_answer(text)}
        assert len(receiver.ids(message_id)) == 1
    assert not receiver.replies.keys() - source.acknowledged.keys()


@kills
async def test_telegram_loses_nothing_and_doubles_one_message_a_chat_and_kill_at_most(
    tmp_path: Path, kills: int, chance: Random
) -> None:
    # It knows no drafts: growing answers are messages, which a kill could leave lying about.
    api = BotApi(chance, slow=SLOW)
    asked: dict[str, int] = {}
    async with api.open() as base:
        telegram = {"type": "telegram", "name": "main", "token": TOKEN, "api_base": base}
        bot = BotProcess(tmp_path, small_config(telegram))

        def answers(chat: int) -> int:
            return len(api.in_chat(chat))

        async def talk(chat: int, number: int) -> None:
            text = f"{TEXTS[number % len(TEXTS)]} {chat}-{number}"
            asked[text] = chat
            await api.write(chat, text)
            await api.news.until(lambda: answers(chat) > number - UNDER_WAY)

        async with bot:
            await kill_under_load(bot, kills, chance, api.news, answers, talk, lambda: api.confirmed)
            await api.news.until(lambda: all(is_answered(api, text, chat) for text, chat in asked.items()))
            await api.news.until(lambda: not api.updates)
            assert await bot.unanswered() == 0
            bot.terminate()
            assert await bot.ended() == 0

    for chat, said in Counter(asked.values()).items():
        assert said <= answers(chat) <= said + kills, f"chat {chat}"


def whole_answer(text: str) -> str:
    """What the sample plugin says to a text, once it is finished."""
    if text.startswith("/stream "):
        return f"{text[1:]}: " + "".join(f"piece {number} of it, " for number in range(10)) + "the end"
    return text[1:] if text.startswith("/") else f"echo {text}"


def is_answered(api: BotApi, text: str, chat: int) -> bool:
    """Whether a message with the whole answer stands in the chat."""
    return any(message.text == whole_answer(text) for message in api.in_chat(chat))
