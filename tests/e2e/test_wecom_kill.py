"""WeCom and a bot that is killed: nothing is lost, and customers of an account see nothing twice."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.e2e.bot_process import BotProcess, small_config
from tests.e2e.kill_load import CHATS, SLOW, TEXTS, UNDER_WAY, kill_under_load, kills, whole_answer
from tests.e2e.qyapi import AES_KEY, CORP, KF, SECRET, TOKEN, Caller, Envelope, QyApi, message

AGENTS = {"active": 1000002, "passive": 1000003}
KINDS = ("account", "active", "passive")
PAUSE = 0.25
"""Seconds between two messages of a chat: a member is sent 30 answers a minute, WeCom would show no more."""


def application(base: str, reply: str) -> dict[str, Any]:
    keys = {"corp_id": CORP, "agent_id": AGENTS[reply], "secret": SECRET, "token": TOKEN, "aes_key": AES_KEY}
    return {"type": "wecom-app", "name": reply, "api_base": base, "reply": reply, **keys}


class Chats:
    """One user in each chat: members of two applications, and customers of an account."""

    def __init__(self, api: QyApi, callers: dict[str, Caller]) -> None:
        self.asked: dict[int, list[str]] = defaultdict(list)
        self.members = 0
        self.passive = 0
        self._api = api
        self._callers = callers

    def answers(self, chat: int) -> int:
        """How many texts its user was shown."""
        return len(self._api.shown[_user(chat)])

    def accepted(self) -> int:
        """How many messages the bot has confirmed, and not answered in the same breath."""
        return self._api.pulled + self.members

    def missing(self) -> list[str]:
        """Answers that were not shown yet."""
        return [
            text
            for chat, asked in self.asked.items()
            for text in map(whole_answer, asked)
            if text not in self._api.shown[_user(chat)]
        ]

    async def talk(self, chat: int, number: int) -> None:
        """One message, delivered; its answer may come later."""
        text = f"{TEXTS[number % len(TEXTS)]} {chat}-{number}"
        user, kind = _user(chat), _kind(chat)
        self.asked[chat].append(text)
        if kind == "account":
            await self._callers["active"].xml(self._api.write(user, f"in{chat}-{number}", text))
        else:
            reply = await self._callers[kind].xml(message(user, f"{chat}{number:05}", text, AGENTS[kind]))
            self.members += not reply
            await self._api.news.changed()
            if reply:
                assert reply["ToUserName"] == user
                self.passive += 1
                await self._api.show(user, reply["Content"])
        await self._api.news.until(lambda: self.answers(chat) > number - UNDER_WAY)
        await asyncio.sleep(PAUSE)


def _kind(chat: int) -> str:
    return KINDS[chat % len(KINDS)]


def _user(chat: int) -> str:
    return f"{_kind(chat)}-{chat}"


@kills
async def test_the_bot_loses_nothing_doubles_little_and_keeps_the_order(
    tmp_path: Path, kills: int, chance: Random
) -> None:
    api = QyApi(chance, slow=SLOW)
    async with api.open() as base, aiohttp.ClientSession() as client:
        account = {"type": "wecom-kf", "name": "account", "kf_id": KF, "app": "active", "feedback": False}
        bot = BotProcess(tmp_path, small_config(*(application(base, reply) for reply in AGENTS), account))
        callers = {reply: Caller(f"{bot.base}/wecom-app/{reply}", client, Envelope(CORP)) for reply in AGENTS}
        chats = Chats(api, callers)
        async with bot:
            await kill_under_load(bot, kills, chance, api.news, chats.answers, chats.talk, chats.accepted)
            await api.news.until(lambda: not chats.missing())
            assert await bot.unanswered() == 0
            bot.terminate()
            assert await bot.ended() == 0

    for chat in CHATS:
        answers, shown = list(map(whole_answer, chats.asked[chat])), api.shown[_user(chat)]
        assert list(dict.fromkeys(shown)) == answers, "each is shown, in order, and nothing else"
        extra = len(shown) - len(answers)
        assert extra <= (0 if _kind(chat) == "account" else kills), shown
    assert chats.passive


GATED = "gated question: this much is shown at first, "
to_the_url = pytest.param("response_url", marks=pytest.mark.long)  # after 10 s in which nobody asks


@pytest.mark.parametrize("way", ["refreshes", to_the_url])
async def test_a_robots_answer_still_comes_after_a_kill(tmp_path: Path, way: str) -> None:
    api = QyApi()
    async with api.open() as base, aiohttp.ClientSession() as client:
        gate = tmp_path / "gate"
        keys = {"token": TOKEN, "aes_key": AES_KEY, "api_base": base}
        aibot = {"type": "wecom-aibot", "name": "helper", "feedback": False, **keys}
        config = small_config(aibot)
        config["plugins"]["talk"] = {"gate": str(gate)}
        async with BotProcess(tmp_path, config) as bot:
            robot = Caller(f"{bot.base}/wecom-aibot/helper", client, Envelope(""))
            asked = question("/gated question", api.response_url("anna"))
            stream = (await robot.json(asked))["stream"]
            assert not stream["finish"]
            assert stream["content"].startswith(GATED)
            await bot.kill()
            await bot.start()
            await asyncio.to_thread(gate.touch)
            assert await robot.json(asked) == {}  # a copy begins no second stream
            if way == "refreshes":
                for number in count():
                    stream = (await robot.json(refresh(stream["id"], number)))["stream"]
                    if stream["finish"]:
                        break
                    await asyncio.sleep(0.1)
                await api.show("anna", stream["content"])
            await api.news.until(lambda: api.shown["anna"])
            bot.terminate()
            assert await bot.ended() == 0
    [answer] = api.shown["anna"]
    assert answer.startswith(GATED)
    assert answer.endswith("the end")


def question(text: str, response_url: str) -> dict[str, Any]:
    """What a robot is called with when a user writes to it."""
    return {
        "msgid": "question-1",
        "aibotid": "robot",
        "chattype": "single",
        "from": {"userid": "anna"},
        "response_url": response_url,
        "msgtype": "text",
        "text": {"content": text},
    }


def refresh(stream: str, number: int) -> dict[str, Any]:
    """What a robot is called with while its answer grows."""
    return {
        "msgid": f"refresh-{number}",
        "aibotid": "robot",
        "chattype": "single",
        "from": {"userid": "anna"},
        "msgtype": "stream",
        "stream": {"id": stream},
    }
