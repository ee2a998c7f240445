"""What a restart must not do: lose a message, write an answer twice, ask a question again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.e2e.bot_process import BotProcess, small_config
from tests.e2e.platforms import SECRET, TOKEN, BotApi, Receiver, Source


def webhook(reply_url: str) -> dict[str, object]:
    """The connector of the signed source."""
    return {"type": "webhook", "name": "shop", "secret": SECRET, "reply_url": reply_url}


async def test_sigterm_answers_what_was_accepted_before_it_ends(tmp_path: Path) -> None:
    receiver = Receiver()
    async with receiver.open() as reply_url, aiohttp.ClientSession() as client:
        async with BotProcess(tmp_path, small_config(webhook(reply_url))) as bot:
            source = Source(f"{bot.base}/webhook/shop", client, receiver.news)
            said = [
                asyncio.create_task(source.say(f"msg_{number}", f"chat {number % 5}", f"/slow {number}"))
                for number in range(60)
            ]
            await receiver.news.until(lambda: len(source.acknowledged) >= 20)
            bot.terminate()
            assert await bot.ended() == 0
            for task in said:
                task.cancel()
            await asyncio.gather(*said, return_exceptions=True)

        # no restart: the process that accepted them answered them
        for message_id, text in source.acknowledged.items():
            assert [reply.text for reply in receiver.replies[message_id]] == [text[1:]]


async def test_a_streamed_answer_cut_by_a_kill_is_completed_in_the_same_message(tmp_path: Path) -> None:
    api = BotApi()
    gate = tmp_path / "gate"
    async with api.open() as base:
        telegram = {"type": "telegram", "name": "main", "token": TOKEN, "api_base": base}
        config = small_config(telegram)
        config["plugins"]["talk"] = {"gate": str(gate)}
        async with BotProcess(tmp_path, config) as bot:
            await api.write(7, "/gated x")
            # once the first edit came, the message that it edits has been noted
            await api.news.until(lambda: api.in_chat(7) and len(api.in_chat(7)[0].texts) > 1)
            await bot.kill()
            gate.touch()
            await bot.start()
            await api.news.until(lambda: api.in_chat(7)[0].text.endswith("the end"))
            await api.write(7, "hello")
            await api.news.until(lambda: api.in_chat(7)[-1].text == "echo hello")

    first, second = (message.texts[-1] for message in api.in_chat(7))
    assert first.startswith("gated x: ")
    assert second == "echo hello"


async def test_a_question_is_not_asked_again_after_a_kill(tmp_path: Path) -> None:
    receiver = Receiver()
    async with (
        receiver.open() as reply_url,
        aiohttp.ClientSession() as client,
        BotProcess(tmp_path, small_config(webhook(reply_url))) as bot,
    ):
        source = Source(f"{bot.base}/webhook/shop", client, receiver.news)
        await source.say("msg_1", "chat", "/order")
        await receiver.news.until(lambda: receiver.answered("msg_1"))
        await bot.kill()
        await bot.start()
        await source.say("msg_2", "chat", "large")
        await receiver.news.until(lambda: receiver.answered("msg_2"))

    assert len(receiver.ids("msg_1")) == 1
    assert {reply.text for reply in receiver.replies["msg_1"]} == {"which size?"}


async def test_a_question_that_waits_at_sigterm_ends_politely_and_once(tmp_path: Path) -> None:
    receiver = Receiver()
    async with (
        receiver.open() as reply_url,
        aiohttp.ClientSession() as client,
        BotProcess(tmp_path, small_config(webhook(reply_url), language="en")) as bot,
    ):
        source = Source(f"{bot.base}/webhook/shop", client, receiver.news)
        await source.say("msg_1", "chat", "/order")
        await receiver.news.until(lambda: receiver.answered("msg_1"))
        bot.terminate()
        assert await bot.ended() == 0
        at_the_end = [reply.text for reply in receiver.replies["msg_1"]]
        await bot.start()
        await source.say("msg_2", "chat", "hello")
        await receiver.news.until(lambda: receiver.answered("msg_2"))

    question, goodbye = at_the_end
    assert question == "which size?"
    assert "cancelled" in goodbye
    assert [reply.text for reply in receiver.replies["msg_1"]] == at_the_end
    assert [reply.text for reply in receiver.replies["msg_2"]] == ["echo hello"]
