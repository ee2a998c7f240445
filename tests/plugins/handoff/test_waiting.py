"""Customers who wait: hours, place in the line, reminders."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bot.inject import Call
from bot.testing import BotTester
from plugins.handoff import commands, staff, talks
from plugins.handoff import plugin as module
from plugins.handoff.plugin import plugin
from tests.plugins.handoff.desk import echo
from tests.plugins.handoff.test_commands import told
from tests.plugins.handoff.test_plugin import Clock

SHIFTS = [{"days": "mon-fri", "from": "09:00", "to": "18:00"}]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.now = datetime(2026, 11, 27, 17, 50, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
    for one in (module, staff, talks, commands):
        monkeypatch.setattr(one, "time", clock)
    return clock


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    answering = {"first_reply": "15m", "remind": ["bot:lead"], "times": 2}
    settings: dict[str, Any] = {"hours": {"shifts": SHIFTS}, "answering": answering}
    bot_tester.use(plugin, **settings).use(echo)
    return bot_tester.configure(language="zh", staff_chats=["bot:s1"], roles={"agents": ["bot:ann"]})


async def remind(bot: BotTester) -> None:
    [plan] = [plan for plan in (await bot.app()).program.schedules if plan.handler.function is module.remind]
    await plan.run(Call())


async def test_each_hears_how_many_are_before_it(bot: BotTester, clock: Clock) -> None:
    first, second, third = (bot.private(f"u{number}") for number in range(3))
    assert "正在为您转接" in (await first.say("转人工")).text
    assert "前面还有 1 位" in (await second.say("转人工")).text
    assert "前面还有 2 位" in (await third.say("转人工")).text
    await bot.private("ann").say("/claim 1")
    assert "前面还有 1 位" in (await third.say("转人工！")).text
    assert "已经收到" in (await second.say("转人工！")).text


async def test_outside_their_hours_it_is_told_when_they_come(bot: BotTester, clock: Clock) -> None:
    clock.now += 3600
    assert "11-30 09:00 后联系您" in (await bot.private("u1").say("转人工")).text
    assert len(told(bot, "s1")) == 1


async def test_reminders_count_hours_when_people_are_there(bot: BotTester, clock: Clock) -> None:
    await bot.private("u1").say("转人工")
    clock.now += 14 * 60
    await remind(bot)
    assert told(bot, "lead") == []
    clock.now = datetime(2026, 11, 30, 9, 5, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
    for _ in range(2):
        await remind(bot)
    [line] = told(bot, "lead")
    assert line.startswith("【超时 #1】u1 已经等了 ")
    assert line in told(bot, "s1")
    assert told(bot, "u1") == ["抱歉让您久等，现在人工比较忙，已经再次提醒同事。"]
    for _ in range(3):
        clock.now += 20 * 60
        await remind(bot)
    assert len(told(bot, "lead")) == 2
    assert len(told(bot, "u1")) == 1


async def test_nobody_is_reminded_of_what_is_taken(bot: BotTester, clock: Clock) -> None:
    await bot.private("u1").say("转人工")
    await bot.private("ann").say("/claim 1")
    clock.now += 7 * 86400
    await remind(bot)
    assert told(bot, "lead") == []
