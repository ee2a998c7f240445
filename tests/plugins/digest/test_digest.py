"""Digests in a running bot: sent once, late where they were missed, by one process; the same in /metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from typer.testing import CliRunner

from bot import ConfigError, Message, Plugin, Reply, to_me
from bot.inject import Call
from bot.testing import BotTester
from plugins.digest import plugin as module
from plugins.digest.chart import draw
from plugins.digest.cli import app
from plugins.digest.plugin import plugin

ZONE = ZoneInfo("Asia/Shanghai")
DAILY: dict[str, Any] = {
    "name": "daily",
    "cron": "0 18 * * *",
    "chats": ["bot:boss", "bot:ops"],
    "summary": False,
}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 12, tzinfo=ZONE).timestamp()

    def __call__(self) -> float:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("plugins.digest.plugin.time", "bot.turn.time"):
        monkeypatch.setattr(name, clock)
    return clock


def shop() -> Plugin:
    made = Plugin("shop")

    @made.message(to_me)
    def answer(message: Message) -> Reply | None:
        return Reply("七天", "退货政策") if "退货" in message.text else None

    return made


Start = Callable[..., BotTester]


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Start:
    """Another process on the same database."""
    deliveries = count(1)

    def make(**digest: Any) -> BotTester:
        tester = BotTester().use(plugin, digests=[{**DAILY, **digest}]).use(shop())
        tester.deliveries = deliveries
        return tester.configure(language="zh", store={"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"})

    return make


async def tick(bot: BotTester) -> None:
    for plan in (await bot.app()).program.schedules:
        if plan.handler.function in (module.refresh, module.tick):
            await plan.run(Call())


def told(bot: BotTester, chat: str = "boss") -> list[str]:
    return ["\n".join(part.text for part in bot.connector.sent if part.target.chat == chat)]


def sent(bot: BotTester, chat: str = "boss") -> list[str]:
    return [part.text for part in bot.connector.sent if part.target.chat == chat]


async def test_it_tells_what_was_asked_to_each_chat_once(start: Start, clock: Clock) -> None:
    bot = start()
    for text in ("怎么退货", "怎么退货", "几点开门"):
        await bot.private().say(text)
    clock.set("2026-11-27 18:00")
    for _ in range(2):
        await tick(bot)
    [text] = sent(bot)
    assert sent(bot, "ops") == [text]
    assert "客服简报 11-27 12:00 – 11-27 18:00" in text
    assert "提问 3 次" in text
    assert "没答上来 1 次（33.3%）" in text
    assert "怎么退货（2 次）" in text
    assert "补发" not in text
    await bot.close()


async def test_times_that_were_missed_are_sent_as_one_and_marked(start: Start, clock: Clock) -> None:
    first = start()
    await first.private().say("怎么退货")
    await first.close()
    clock.set("2026-11-30 09:00")
    second = start()
    for _ in range(2):
        await tick(second)
    [text] = sent(second)
    assert text.startswith("# 【补发】 客服简报 11-27 12:00 – 11-29 18:00")
    assert "提问 1 次" in text
    await second.close()


async def test_one_process_sends_and_another_takes_over(start: Start, clock: Clock) -> None:
    first, second = start(), start()
    await first.app()
    await second.app()
    clock.set("2026-11-27 17:59")
    await tick(first)
    clock.set("2026-11-27 18:00")
    await tick(second)
    assert sent(second) == []
    await first.close()
    clock.set("2026-11-27 18:04")
    await tick(second)
    assert len(sent(second)) == 1
    assert "补发" not in sent(second)[0]
    await second.close()


async def test_two_that_both_believe_to_lead_send_it_once(
    start: Start, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leads(self: object, holder: str, now: float) -> bool:
        return True

    monkeypatch.setattr("plugins.digest.tables.Runs.leads", leads)
    bots = [start(), start()]
    for bot in bots:
        await bot.app()
    clock.set("2026-11-27 18:00")
    for bot in bots:
        await tick(bot)
    assert sum(len(sent(bot)) for bot in bots) == 1
    for bot in bots:
        await bot.close()


async def test_holidays_are_left_out_and_told_the_next_time(start: Start, clock: Clock) -> None:
    bot = start(holidays=["2026-11-27"])
    await bot.private().say("怎么退货")
    clock.set("2026-11-27 18:00")
    await tick(bot)
    assert sent(bot) == []
    clock.set("2026-11-28 18:00")
    await tick(bot)
    assert "11-27 12:00 – 11-28 18:00" in sent(bot)[0]
    await bot.close()


async def test_the_model_sums_up_but_makes_no_numbers(start: Start, clock: Clock) -> None:
    for said, shown in (("今天提问 1 次，一切正常。", True), ("比昨天多 9 次。", False)):
        bot = start(summary=True).with_model(lambda prompt, said=said: [said])
        await bot.private().say("怎么退货")
        clock.now += 86400
        await tick(bot)
        assert (said in sent(bot)[-1]) is shown
        await bot.close()


async def test_metrics_say_the_same(start: Start, clock: Clock) -> None:
    bot = start(covers="day")
    for text in ("怎么退货", "几点开门", "喂"):
        await bot.private().say(text)
    clock.set("2026-11-27 18:00")
    await tick(bot)
    body, _ = (await bot.app()).metrics.exposition()
    shown = dict(
        line.rsplit(" ", 1) for line in body.decode().splitlines() if line.startswith("glmbot_service")
    )
    assert shown['glmbot_service_questions{answered_by="shop",window="1d"}'] == "1.0"
    assert shown['glmbot_service_questions{answered_by="",window="1d"}'] == "2.0"
    assert shown['glmbot_service_misses{window="1d"}'] == "2.0"
    assert "提问 3 次" in sent(bot)[0]
    assert "没答上来 2 次" in sent(bot)[0]
    await bot.close()


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"cron": "soon"}, "the cron string 'soon'"),
        ({"timezone": "Mars"}, "no time zone 'Mars'"),
        ({"chats": []}, "at least 1"),
        ({"country": "ZZ"}, "no public holidays are known"),
    ],
)
async def test_what_is_wrong_with_the_settings_is_named(
    bot_tester: BotTester, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        await bot_tester.use(plugin, digests=[{**DAILY, **wrong}]).app()


def test_a_chart_is_a_picture_of_two_days_or_more() -> None:
    from datetime import date

    days = [(date(2026, 11, day), 10 * day, day) for day in range(1, 15)]
    picture = draw(days)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert draw(days[:1]) is None


async def test_the_command_line_previews_and_asks_for_it(
    start: Start, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = start()
    await bot.private().say("怎么退货")
    config = tmp_path / "config.yaml"
    sections = {
        "store": {"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"},
        "plugins": {"digest": {"digests": [DAILY]}},
    }
    config.write_text(yaml.safe_dump(sections), "utf-8")
    import asyncio

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--config", str(config)])

    shown = await asyncio.to_thread(run, "preview", "daily", "--at", "2026-11-27T18:00:00")
    assert shown.exit_code == 0, shown.output
    assert "提问 1 次" in shown.stdout
    assert sent(bot) == []
    monkeypatch.setattr("plugins.digest.cli.time", clock)
    clock.now += 600
    asked = await asyncio.to_thread(run, "send", "daily")
    assert asked.exit_code == 0, asked.output
    for _ in range(2):
        await tick(bot)
    assert len(sent(bot)) == 1
    unknown = await asyncio.to_thread(run, "preview", "weekly")
    assert isinstance(unknown.exception, ConfigError)
    assert unknown.exception.remedy == "known are: daily"
    await bot.close()
