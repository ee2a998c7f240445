"""From a question nobody could answer to an entry: by staff, decided by an admin, recorded."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bot import DataError, User
from bot.store import Audit
from bot.testing import BotTester
from plugins.faq.cli import app
from plugins.faq.learning import Learning, Unanswered, grouped
from plugins.faq.plugin import plugin
from plugins.feedback.plugin import plugin as feedback

FAQ = [{"id": "fee", "question": "运费多少", "answer": "八元。"}]
ROLES = {"agents": ["bot:ann"], "admins": ["bot:boss"]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    file = tmp_path / "faq.yaml"
    file.write_text(yaml.safe_dump(FAQ, allow_unicode=True), "utf-8")
    config = {
        "store": {"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"},
        "plugins": {"faq": {"files": [str(file)]}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return tmp_path


@pytest.fixture
def bot(bot_tester: BotTester, place: Path) -> BotTester:
    bot_tester.use(plugin, files=[str(place / "faq.yaml")]).use(feedback)
    store = {"url": f"sqlite+aiosqlite:///{place / 'bot.db'}"}
    return bot_tester.configure(language="zh", roles=ROLES, store=store)


async def run(place: Path, *words: str) -> Any:
    arguments = [*words, "--config", str(place / "config.yaml")]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def test_a_question_becomes_an_entry(bot: BotTester, place: Path) -> None:
    user, ann, boss = bot.private("u1"), bot.private("ann"), bot.private("boss")
    for text in ("怎么开发票", "怎么开发票？", "如何开发票", "几点关门"):
        assert "答不上来" in (await user.say(text)).text
    first = (await ann.say("/unanswered")).text.splitlines()[0]
    assert first == "#1 怎么开发票（3 次，另有 1 种问法）"
    listed = await run(place, "unanswered", "--json")
    assert [(one["misses"], len(one["questions"])) for one in json.loads(listed.stdout)] == [(3, 2), (1, 1)]
    assert "候选 1" in (await ann.say("/learn 1 在订单页点开发票。")).text
    assert "问：怎么开发票" in (await ann.say("/candidates")).text
    assert "没有使用这个命令的权限" in (await ann.say("/approve 1")).text
    assert "已修改" in (await boss.say("/edit 1 在订单页点“开发票”。")).text
    assert "learned-1" in (await boss.say("/approve 1")).text
    assert (await user.say("如何开发票")).text == "在订单页点“开发票”。"
    assert "开发票" not in (await ann.say("/unanswered")).text
    exported = (await run(place, "export")).stdout
    assert "learned-1" in exported
    trail = await Audit((await bot.app()).store).latest()
    assert [(one.actor, one.action, one.subject) for one in reversed(trail)] == [
        ("bot:ann", "learn", "怎么开发票"),
        ("bot:boss", "faq-edit", "1"),
        ("bot:boss", "faq-approve", "1"),
    ]


async def test_a_thumb_down_counts_once(bot: BotTester) -> None:
    user = bot.private("u1")
    await user.say("运费多少")
    for vote in ("down", "down"):
        await user.do("feedback", inbox_id=1, vote=vote)
    [one] = await Learning((await bot.app()).store).unanswered(0)
    assert (one.questions, one.misses, one.votes) == (("运费多少",), 0, 1)


async def test_what_staff_read_tells_nobody_s_number(bot: BotTester) -> None:
    await bot.private("u1").say("我的电话是13812345678，查下积分")
    assert "138****5678" in (await bot.private("ann").say("/unanswered")).text


async def test_an_agent_may_bring_a_question_along(bot: BotTester) -> None:
    ann = bot.private("ann")
    assert "候选 1" in (await ann.say("/learn 能寄顺丰吗 || 可以，运费自付。")).text
    assert "已有这个问题（fee）" in (await ann.say("/learn 运费多少？ || 九元")).text
    assert "请写成" in (await ann.say("/learn 1")).text
    assert "没有编号为 99" in (await ann.say("/learn 99 好")).text


async def test_what_is_decided_stays_so(bot: BotTester) -> None:
    ann, boss = bot.private("ann"), bot.private("boss")
    await ann.say("/learn 能寄顺丰吗 || 可以。")
    assert "已驳回" in (await boss.say("/reject 1 说清楚运费")).text
    assert "rejected already" in (await boss.say("/approve 1")).text
    assert "there is no candidate 7" in (await boss.say("/approve 7")).text
    assert "没有等待" in (await boss.say("/candidates")).text


async def test_what_the_faq_has_meanwhile_is_refused_and_nothing_is_written(bot: BotTester) -> None:
    ann, boss = bot.private("ann"), bot.private("boss")
    for _ in range(2):
        await ann.say("/learn 能寄顺丰吗 || 可以。")
    assert "learned-1" in (await boss.say("/approve 1")).text
    assert "duplicate question" in (await boss.say("/approve 2")).text
    assert "2. 问：能寄顺丰吗" in (await boss.say("/candidates")).text


@pytest.mark.parametrize(
    "command", ["unanswered", "learn 1 x", "candidates", "approve 1", "edit 1 x", "reject 1"]
)
async def test_customers_have_no_say_whatever_they_are_called(bot: BotTester, command: str) -> None:
    said = await bot.private("u1").say(f"/{command}", user=User("u1", name="boss"))
    assert "没有使用这个命令的权限" in said.text


async def test_the_command_line_decides_too(bot: BotTester, place: Path) -> None:
    ann = bot.private("ann")
    for question in ("能寄顺丰吗", "能自提吗"):
        await ann.say(f"/learn {question} || 可以。")
    assert "能寄顺丰吗" in (await run(place, "candidates")).stdout
    assert (await run(place, "edit", "1", "可以，运费自付。")).exit_code == 0
    assert (await run(place, "approve", "1")).stdout == "1 能寄顺丰吗: live as learned-1\n"
    assert (await run(place, "reject", "2", "--why", "不对")).exit_code == 0
    assert isinstance((await run(place, "approve", "2")).exception, DataError)
    assert "可以，运费自付。" in (await run(place, "export")).stdout


async def test_what_a_crash_repeats_is_proposed_once(bot: BotTester) -> None:
    ann = bot.private("ann")
    message = ann.message("/learn 能自提吗 || 可以。")
    await bot.deliver(message)
    learning = Learning((await bot.app()).store)
    before = await learning.candidates()
    again = await learning.propose(["能自提吗"], "可以。", "bot:ann", 0.0, trace=_trace(bot))
    assert [one.id for one in before] == [again]
    assert len(await learning.candidates()) == 1


def _trace(bot: BotTester) -> str:
    import sqlite3

    database = sqlite3.connect(bot._config["store"]["url"].removeprefix("sqlite+aiosqlite:///"))
    [(trace,)] = database.execute("SELECT trace FROM faq_candidate").fetchall()
    database.close()
    return str(trace)


def test_many_wordings_of_few_questions_are_few_groups(encoder: Any) -> None:
    kinds = ["怎么退货", "运费多少", "几点开门", "发票怎么开", "能不能货到付款"]
    numbers = count(1)
    found = [
        Unanswered(next(numbers), (f"{kinds[n % 5]}{'啊呀呢吧'[n % 4]}",), 1, 0, 0.0) for n in range(400)
    ]
    groups = grouped(found, encoder)
    assert sum(one.count for one in groups) == 400
    assert len(groups) <= 20
