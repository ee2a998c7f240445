"""Waiting for a person: business hours, the place in the line, reminders of the first reply."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.inject import Call
from bot.testing import BotTester
from plugins.handoff import plugin as plugin_module
from plugins.handoff import relay, staff, switchboard, watch
from plugins.handoff.plugin import plugin
from plugins.handoff.queue import minutes
from tests.plugins.handoff.desk import echo

HOURS = {"timezone": "Asia/Shanghai", "open": ["mon-fri 09:00-18:00"], "holidays": ["2026-11-30"]}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.set("2026-11-27 10:00")  # a Friday
    for module in (plugin_module, relay, staff, switchboard, watch):
        monkeypatch.setattr(module, "time", clock)
    return clock


def build(tester: BotTester, **settings: object) -> BotTester:
    roles = {"agents": ["bot:anna"], "admins": []}
    return tester.use(plugin, **settings).use(echo).configure(staff_chats=["bot:s1"], roles=roles)


async def tick(bot: BotTester) -> None:
    app = await bot.app()
    [plan] = [plan for plan in app.program.schedules if plan.handler.plugin == "handoff"]
    await plan.run(Call())


def told(bot: BotTester, chat: str, word: str = "") -> list[str]:
    """What a chat was sent without asking."""
    sent = [part for part in bot.connector.sent if part.target.chat == chat and part.inbox_id is None]
    return [part.text for part in sent if word in part.text]


async def test_outside_business_hours_a_customer_hears_when_people_are_back(
    bot_tester: BotTester, clock: Clock
) -> None:
    bot = build(bot_tester, hours=HOURS)
    user = bot.private("u1")
    clock.set("2026-11-27 18:00")
    assert "12月1日（周二）09:00" in (await user.say("转人工")).text
    assert (await user.say("订单丢了")).text == ""  # told once
    assert "周二" in (await user.say("转人工")).text  # unless asked again
    assert told(bot, "s1")[0].startswith("【转人工 #1】")
    clock.set("2026-12-01 09:30")
    await tick(bot)
    assert (await user.say("在吗")).text == ""
    assert "排在第 1 位" in (await user.say("转人工")).text


async def test_at_night_nobody_who_did_not_ask_is_taken_from_the_bot(
    bot_tester: BotTester, clock: Clock
) -> None:
    user = build(bot_tester, hours=HOURS).private("u1")
    clock.set("2026-11-27 23:00")
    said = (await user.say("你们的服务太差了")).text
    assert said.startswith("bot: ")
    assert "需要人工客服吗" in said
    assert (await user.say("在吗")).text == "bot: 在吗"
    clock.set("2026-12-01 10:00")
    assert "交给人工客服" in (await user.say("你们的服务太差了")).text


async def test_who_still_waits_at_the_end_of_the_day_is_told_once(
    bot_tester: BotTester, clock: Clock
) -> None:
    user = build(bot_tester, hours=HOURS).private("u1")
    clock.set("2026-11-27 17:59")
    assert "正在为您转接" in (await user.say("转人工")).text
    assert (await user.say("喂")).text == ""
    clock.set("2026-11-27 18:01")
    assert "周二" in (await user.say("有人吗")).text
    assert (await user.say("有人吗")).text == ""


async def test_who_waits_over_a_weekend_still_waits_after_it(bot_tester: BotTester, clock: Clock) -> None:
    bot = build(bot_tester, hours=HOURS, release_after="4h")
    user = bot.private("u1")
    clock.set("2026-11-27 17:00")
    await user.say("转人工")
    clock.set("2026-12-01 11:59")
    await tick(bot)
    assert len(told(bot, "s1", "已交还")) == 0
    clock.set("2026-12-01 12:01")
    await tick(bot)
    assert len(told(bot, "s1", "已交还")) == 1


async def test_many_who_wait_hear_their_place_and_roughly_how_long(
    bot_tester: BotTester, clock: Clock
) -> None:
    bot = build(bot_tester, busy_at=2)
    said = [(await bot.private(f"u{n}").say("转人工")).text for n in range(1, 5)]
    assert ["排在第" in text for text in said] == [False, False, True, True]
    assert "第 4 位，大约还要 12 分钟" in said[3]
    await bot.private("anna").say("/claim 1")
    assert "第 3 位" in (await bot.private("u4").say("转人工")).text
    assert "请稍候" in (await bot.private("u1").say("转人工")).text
    await bot.private("u2").say("/bot")
    assert "第 2 位" in (await bot.private("u4").say("转人工")).text


async def test_a_late_first_reply_is_reminded_of_so_often_and_no_more(
    bot_tester: BotTester, clock: Clock, tmp_path: Path
) -> None:
    sla = {"first_reply": "10m", "repeats": 2, "escalate_to": ["bot:boss"]}
    bot = build(bot_tester, sla=sla).configure(store={"url": f"sqlite+aiosqlite:///{tmp_path}/bot.db"})
    await bot.private("u1").say("转人工")
    await bot.private("u2").say("转人工")
    clock.now += 599
    await tick(bot)
    assert told(bot, "boss") == []
    await bot.private("anna").say("/reply 2 您好")
    await bot.close()  # due times outlive a restart
    for _ in range(5):
        clock.now += 601
        await tick(bot)
    assert [text[:13] for text in told(bot, "boss")] == ["【超时提醒】#1 u1 已"] * 2
    assert told(bot, "s1", "超时") == []


async def test_a_claim_without_a_reply_is_reminded_of_too(bot_tester: BotTester, clock: Clock) -> None:
    bot = build(bot_tester)
    await bot.private("u1").say("转人工")
    await bot.private("anna").say("/claim 1")
    clock.now += 301
    await tick(bot)
    await tick(bot)
    assert len(told(bot, "s1", "超时提醒")) == 1
    await bot.private("anna").say("您好")
    clock.now += 1000
    await tick(bot)
    assert len(told(bot, "s1", "超时提醒")) == 1


async def test_reminders_count_business_hours_only(bot_tester: BotTester, clock: Clock) -> None:
    bot = build(bot_tester, hours=HOURS, sla={"first_reply": "10m"})
    clock.set("2026-11-27 17:55")
    await bot.private("u1").say("转人工")
    for text, reminded in (("2026-11-28 12:00", 0), ("2026-12-01 09:04", 0), ("2026-12-01 09:06", 1)):
        clock.set(text)
        await tick(bot)
        assert len(told(bot, "s1", "超时提醒")) == reminded


@given(st.lists(st.floats(0, 3600), max_size=20), st.integers(1, 50))
def test_the_estimate_grows_with_the_line_and_is_never_nothing(takes: list[float], place: int) -> None:
    here, behind = (minutes(where, sorted(takes), 3600.0) for where in (place, place + 1))
    assert 1 <= here <= behind


def test_the_estimate_follows_the_pace() -> None:
    assert minutes(3, [0.0, 60.0, 120.0, 180.0], 200.0) == 3
    assert minutes(3, [0.0, 60.0, 120.0, 180.0], 9000.0) == minutes(3, [], 9000.0) == 9
