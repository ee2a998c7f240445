"""What the bot needs is away for a while: its database, its disk, the receiver of its replies, its health."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
from aiohttp import web

from bot.store.inbox import MAX_ATTEMPTS
from tests.e2e.bot_process import BotProcess, free_port, small_config
from tests.e2e.platforms import SECRET, Receiver, Source, signed, site

BACKLOG = 20
POLITE_SECONDS = 15.0


class Outage(Protocol):
    """Keeps a bot from writing while it is entered."""

    def __call__(self, bot: BotProcess, folder: Path) -> AbstractContextManager[None]: ...


@contextmanager
def locked(bot: BotProcess, folder: Path) -> Iterator[None]:
    """Somebody else holds the database."""
    with closing(sqlite3.connect(folder / "bot.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(bot: BotProcess, folder: Path) -> Iterator[None]:
    """No file that the process writes can grow, the log included."""
    _, hard = resource.prlimit(bot.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(bot.pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(bot.pid, resource.RLIMIT_FSIZE, (hard, hard))


def webhook(reply_url: str) -> dict[str, object]:
    """The connector of the signed source."""
    return {"type": "webhook", "name": "shop", "secret": SECRET, "reply_url": reply_url}


async def ends_soon(bot: BotProcess) -> None:
    """Far from judging speed: a bot that waited for its receiver would not end for half a minute."""
    async with asyncio.timeout(POLITE_SECONDS):
        assert await bot.ended() == 0


def message(text: str) -> bytes:
    """The body of one."""
    return f'{{"type": "message", "chat_id": "chat", "user_id": "user", "text": "{text}"}}'.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set on Linux only")
@pytest.mark.parametrize("outage", [locked, full])
async def test_what_cannot_be_stored_is_not_acknowledged_and_accepted_later(
    tmp_path: Path, outage: Outage
) -> None:
    receiver = Receiver()
    async with (
        receiver.open() as reply_url,
        aiohttp.ClientSession() as client,
        BotProcess(tmp_path, small_config(webhook(reply_url))) as bot,
    ):
        url = f"{bot.base}/webhook/shop"

        async def post(message_id: str, text: str) -> int:
            body = message(text)
            async with client.post(url, data=body, headers=signed(message_id, body)) as response:
                assert response.status == 202 or "Retry-After" in response.headers
                return response.status

        assert await post("msg_before", "before") == 202
        await receiver.news.until(lambda: receiver.answered("msg_before"))
        with outage(bot, tmp_path):
            assert await post("msg_during", "during") == 503
        assert await post("msg_during", "during") == 202
        await receiver.news.until(lambda: receiver.answered("msg_during"))
        bot.terminate()
        assert await bot.ended() == 0

    assert [reply.text for reply in receiver.replies["msg_during"]] == ["echo during"]


async def test_a_receiver_that_is_away_does_not_hold_up_the_end_and_gets_its_replies_later(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    port = free_port()
    asked = [f"msg_{number}" for number in range(BACKLOG)]
    settings = small_config(webhook(f"http://127.0.0.1:{port}/replies"))
    async with aiohttp.ClientSession() as client, BotProcess(tmp_path, settings) as bot:
        source = Source(f"{bot.base}/webhook/shop", client)
        for number, message_id in enumerate(asked):
            await source.say(message_id, f"chat {number % 5}", message_id)
        bot.terminate()
        await ends_soon(bot)

        async with receiver.open(port):
            await bot.start()
            await receiver.news.until(lambda: all(map(receiver.answered, asked)))

    for message_id in asked:
        assert [reply.text for reply in receiver.replies[message_id]] == [f"echo {message_id}"]


async def test_a_receiver_that_never_answers_does_not_hold_up_the_end(tmp_path: Path) -> None:
    came, never = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        came.set()
        await never.wait()
        return web.Response()

    async with site(web.post("/replies", hang)) as base, aiohttp.ClientSession() as client:
        async with BotProcess(tmp_path, small_config(webhook(base + "/replies"))) as bot:
            await Source(f"{bot.base}/webhook/shop", client).say("msg_1", "chat", "hello")
            await came.wait()
            bot.terminate()
            await ends_soon(bot)
        never.set()


async def test_a_message_that_brings_the_bot_down_is_given_up_and_those_behind_it_are_answered(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    async with (
        receiver.open() as reply_url,
        aiohttp.ClientSession() as client,
        BotProcess(tmp_path, small_config(webhook(reply_url), language="en")) as bot,
    ):
        source = Source(f"{bot.base}/webhook/shop", client)
        await source.say("msg_bad", "chat", "/gated forever")
        await source.say("msg_behind", "chat", "hello")
        for _ in range(MAX_ATTEMPTS):
            assert not receiver.replies
            await bot.kill()
            await bot.start()
        await receiver.news.until(lambda: receiver.answered("msg_behind"))

    assert "went wrong" in receiver.replies["msg_bad"][0].text
    assert [reply.text for reply in receiver.replies["msg_behind"]] == ["echo hello"]
