"""A day of a service over Telegram and WeCom: questions, misses, people, learning, and the digest at its end.

Clocks go back on that day; the bot is restarted in its midst, and another process sends the digest.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest

from bot.app import App
from bot.config import load_config
from bot.inject import Call
from plugins.digest import plugin as digest
from tests.e2e.bot_process import free_port
from tests.e2e.platforms import TOKEN, BotApi
from tests.e2e.qyapi import AES_KEY, CORP, SECRET, Caller, Envelope, QyApi, message
from tests.e2e.qyapi import TOKEN as CALLBACK_TOKEN

ZONE = ZoneInfo("Europe/Berlin")
OPS, AGENT, ADMIN = -500, 901, 902
STAFF = {str(AGENT), str(ADMIN), str(-OPS)}
APP_ID = 1000002
FAQ = """
- {id: fee, question: 运费是多少, similar: [邮费多少], answer: 满99元包邮。}
- {id: back, question: 怎么退货, similar: [退货怎么办], answer: 七天内可以退货。}
"""
HANDOFF = ("plugin", "relay", "staff", "switchboard", "watch")
CLOCKS = (
    "bot.turn.time",
    "plugins.digest.plugin.time",
    *(f"plugins.handoff.{name}.time" for name in HANDOFF),
    "plugins.feedback.plugin.time",
    "plugins.faq.approving.time",
    "plugins.faq.importing.time",
    "plugins.faq.sync.time",
    "plugins.faq.learning_commands.time",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in CLOCKS:
        monkeypatch.setattr(name, clock)
    return clock


class Service:
    """The bot on its database, started and stopped, with both platforms around it."""

    def __init__(self, folder: Path, telegram: BotApi, bases: tuple[str, str], wecom: QyApi) -> None:
        self.telegram, self.wecom = telegram, wecom
        self._folder, self._port = folder, free_port()
        self._client = aiohttp.ClientSession()
        self._caller = Caller(f"http://127.0.0.1:{self._port}/wecom-app/desk", self._client, Envelope(CORP))
        self._numbers = iter(range(10_000, 99_999))
        self.app: App
        (folder / "faq.yaml").write_text(FAQ, "utf-8")
        config = {
            "server": {"port": self._port},
            "store": {"url": f"sqlite+aiosqlite:///{folder / 'bot.db'}"},
            "language": "zh",
            "roles": {"agents": [f"main:{AGENT}"], "admins": [f"main:{ADMIN}"]},
            "staff_chats": [f"main:{OPS}"],
            "plugins": {
                "faq": {"files": [str(folder / "faq.yaml")]},
                "knowledge": {"enabled": False},
                "digest": {
                    "digests": [
                        {
                            "name": "evening",
                            "cron": "0 18 * * *",
                            "timezone": "Europe/Berlin",
                            "chats": [f"main:{OPS}"],
                        }
                    ]
                },
            },
            "connectors": [
                {"type": "telegram", "name": "main", "token": TOKEN, "api_base": bases[0]},
                {
                    "type": "wecom-app",
                    "name": "desk",
                    "corp_id": CORP,
                    "agent_id": APP_ID,
                    "secret": SECRET,
                    "token": CALLBACK_TOKEN,
                    "aes_key": AES_KEY,
                    "api_base": bases[1],
                },
            ],
        }
        (folder / "config.yaml").write_text(json.dumps(config, ensure_ascii=False), "utf-8")

    async def start(self) -> None:
        self.app = App(load_config(self._folder / "config.yaml"))
        await self.app.start()

    async def stop(self) -> None:
        await self.app.stop()

    async def close(self) -> None:
        await self._client.close()

    async def tick(self) -> None:
        for plan in self.app.program.schedules:
            if plan.handler.function in (digest.refresh, digest.tick):
                await plan.run(Call())

    async def telegram_says(self, chat: int, text: str, answer: str = "") -> str:
        """What the bot sends there once a message arrived that has `answer` in it."""
        before = len(self.telegram.in_chat(chat))
        await self.telegram.write(chat, text)
        return await self.telegram_hears(chat, answer, before)

    async def telegram_hears(self, chat: int, text: str, before: int = 0) -> str:
        def found() -> list[str]:
            return [shown.text for shown in self.telegram.in_chat(chat)[before:] if text in shown.text]

        await self.telegram.news.until(found)
        return found()[0]

    async def wecom_says(self, user: str, text: str, answer: str) -> None:
        await self._caller.xml(message(user, str(next(self._numbers)), text, APP_ID))
        await self.wecom_hears(user, answer)

    async def wecom_hears(self, user: str, text: str) -> None:
        await self.wecom.news.until(lambda: any(text in shown for shown in self.wecom.shown[user]))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    telegram, wecom = BotApi(), QyApi()
    async with telegram.open() as first, wecom.open() as second:
        made = Service(tmp_path, telegram, (first, second), wecom)
        yield made
        await made.stop()
        await made.close()


async def test_a_day_of_a_service(service: Service, clock: Clock, tmp_path: Path) -> None:
    clock.set("2026-10-24 18:00")
    await service.start()

    # questions, and two in a row that nobody knows
    clock.set("2026-10-25 01:30")
    await service.telegram_says(11, "运费是多少", "满99元包邮")
    clock.set("2026-10-25 09:00")
    await service.telegram_says(11, "能寄到火星吗", "答不上来")
    await service.telegram_says(11, "能寄到月球吗", "交给人工客服来处理")
    await service.telegram_hears(OPS, "【转人工 #1】")
    await service.wecom_says("w1", "怎么退货", "七天内可以退货")
    await service.wecom_says("w1", "没用", "交给人工客服来处理")
    await service.telegram_hears(OPS, "【转人工 #2】")
    await service.telegram_says(12, "邮费多少", "满99元包邮")

    # people at work, over a restart during which a customer writes
    clock.set("2026-10-25 09:10")
    assert "能寄到火星吗" in await service.telegram_says(AGENT, "/claim 1", "由您处理")
    await service.telegram.write(AGENT, "暂时只送地球")
    await service.telegram_hears(11, "【人工客服】暂时只送地球")
    await service.telegram_says(AGENT, "/reply 2 您好，哪里没说清楚？", "已发给 #2。")
    await service.wecom_hears("w1", "【人工客服】您好，哪里没说清楚？")
    await service.stop()
    await service.telegram.write(11, "那太可惜了")
    clock.set("2026-10-25 09:20")
    await service.start()
    await service.telegram_hears(AGENT, "【#1】U：那太可惜了")
    await service.telegram_says(AGENT, "/close 1", "#1 已结束")
    await service.telegram_hears(11, "本次人工服务已结束")
    await service.telegram_says(AGENT, "/release 2", "#2 已交还给机器人")
    await service.wecom_hears("w1", "人工服务已结束")

    # the bot learns
    clock.set("2026-10-25 10:00")
    listed = await service.telegram_says(AGENT, "/unanswered", "能寄到")
    number = next(line for line in listed.splitlines() if "火星" in line).split(" ")[0].removeprefix("#")
    await service.telegram_says(AGENT, f"/learn {number} 暂时只送地球。", "候选 1")
    await service.telegram_says(ADMIN, "/approve 1", "learned-1")
    await service.telegram_says(12, "能寄到火星吗", "暂时只送地球。")

    # another process leads in the evening
    clock.set("2026-10-25 17:59")
    await service.tick()
    await service.stop()
    await service.start()
    clock.set("2026-10-25 18:00")
    await service.tick()
    assert not [shown for shown in service.telegram.in_chat(OPS) if "客服简报" in shown.text]
    clock.set("2026-10-25 18:03")
    for _ in range(2):
        await service.tick()
    text = await service.telegram_hears(OPS, "客服简报")
    assert sum("客服简报" in shown.text for shown in service.telegram.in_chat(OPS)) == 1

    begin = datetime(2026, 10, 24, 18, tzinfo=ZONE).timestamp()
    end = datetime(2026, 10, 25, 18, tzinfo=ZONE).timestamp()
    assert end - begin == 25 * 3600
    plain = recounted(tmp_path / "bot.db", begin, end)
    for line in plain.lines():
        assert line in text
    assert plain.questions == 7
    assert plain.escalated == {"misses": 1, "vote": 1}


class Recounted:
    """What the tables say themselves, the counts left out."""

    def __init__(self, rows: list[Any], handoffs: list[Any], votes: list[Any], entries: list[Any]) -> None:
        asked = [row for row in rows if not row[1].startswith("/") and row[4] not in STAFF]
        self.questions = len(asked)
        self.misses = sum(row[3] for row in asked)
        self.answered = Counter(row[2] for row in asked if row[2] and not row[3])
        self.top = Counter(row[1] for row in asked)
        self.unanswered = Counter(row[1] for row in asked if row[3])
        self.escalated = Counter(reason for reason, _, _ in handoffs)
        waits = [taken - begun for _, begun, taken in handoffs if taken]
        self.taken, self.wait = len(waits), sum(waits) / len(waits)
        self.up, self.down = (sum(vote == sign for (vote,) in votes) for sign in (1, -1))
        self.entries = [json.loads(texts)[0] for (texts,) in entries]

    def lines(self) -> list[str]:
        """What the digest has to say."""
        escalations = self.escalated.total()
        return [
            f"提问 {self.questions} 次",
            f"答上 {self.answered.total()} 次，其中常见问题 {self.answered['faq']} 次",
            f"没答上来 {self.misses} 次（{100 * self.misses / self.questions:.1f}%）",
            f"转人工 {escalations} 次（{100 * escalations / self.questions:.1f}%）",
            f"评价：👍 {self.up}，👎 {self.down}",
            f"人工接手 {self.taken} 次，平均等待 {self.wait / 60:.1f} 分钟",
            *(f"{text}（{count} 次）" for text, count in self.unanswered.items()),
            *(f"新增：{text}" for text in self.entries),
        ]


def recounted(file: Path, begin: float, end: float) -> Recounted:
    with closing(sqlite3.connect(file)) as database:

        def rows(query: str) -> list[Any]:
            return database.execute(query, {"begin": begin, "end": end}).fetchall()

        return Recounted(
            rows(
                "SELECT id, question, plugin, miss, user FROM history "
                "WHERE created_at >= :begin AND created_at < :end"
            ),
            rows(
                "SELECT reason, asked_at, taken_at FROM handoff WHERE asked_at >= :begin AND asked_at < :end"
            ),
            rows("SELECT vote FROM feedback WHERE at >= :begin AND at < :end"),
            rows("SELECT texts FROM faq_entry WHERE id LIKE 'learned-%' AND :begin < :end"),
        )
