"""The process is killed at random moments under load: afterwards every accepted message has its reply."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import aiohttp

from tests.e2e.bot_process import BotProcess, small_config
from tests.e2e.kill_load import SLOW, TEXTS, UNDER_WAY, kill_under_load, kills, whole_answer
from tests.e2e.platforms import SECRET, TOKEN, BotApi, Receiver, Source


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


def is_answered(api: BotApi, text: str, chat: int) -> bool:
    """Whether a message with the whole answer stands in the chat."""
    return any(message.text == whole_answer(text) for message in api.in_chat(chat))
