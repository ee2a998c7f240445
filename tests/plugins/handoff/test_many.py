"""A hundred talks at once, several agents, restarts in between: nothing is lost, repeated or crossed."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from time import perf_counter

import pytest

from bot.testing import BotTester
from plugins.handoff.plugin import plugin
from tests.plugins.handoff.desk import echo

CUSTOMERS, AGENTS, WORDS = 100, 5, 6
_WORD = re.compile(r"[ca]\d+-\d+")


def sent(file: Path, chat: str) -> list[str]:
    """What a chat was sent, over all runs, in order."""
    query = "SELECT json_extract(payload, '$.text') FROM outbox WHERE chat = ? ORDER BY id"
    with closing(sqlite3.connect(file)) as database:
        return [str(row[0]) for row in database.execute(query, [chat])]


def words(texts: list[str], mark: str) -> list[str]:
    """The words of customers (c) or agents (a) in texts, in order."""
    return [word for text in texts for word in _WORD.findall(text) if word[0] == mark]


def unfinished(file: Path) -> int:
    """How many messages were cut off."""
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("SELECT count(*) FROM inbox WHERE done_at IS NULL").fetchone()[0])


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_hundred_talks_over_restarts(
    bot_tester: BotTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("bot.app.DRAIN_SECONDS", 0.0)  # a stop cuts off whatever is at work
    file = tmp_path / "bot.db"
    agents = [f"agent{number}" for number in range(AGENTS)]
    bot = (
        bot_tester.use(plugin, release_after=None)
        .use(echo)
        .configure(
            store={"url": f"sqlite+aiosqlite:///{file}"},
            language="zh",
            staff_chats=["bot:s1"],
            roles={"agents": [f"bot:{agent}" for agent in agents]},
        )
    )
    chance = random.Random(seed)
    customers = [f"c{number}" for number in range(CUSTOMERS)]
    numbers, left = dict[str, int](), list[int]()

    async def ask(customer: str) -> None:
        await bot.private(customer).say("转人工")

    await asyncio.gather(*map(ask, customers))
    for text in sent(file, "s1"):
        found = re.search(r"#(\d+)】(c\d+)（", text)
        assert found is not None
        numbers[found[2]] = int(found[1])
    assert len(set(numbers.values())) == CUSTOMERS
    owner = {customer: chance.choice(agents) for customer in customers}
    spoken, answered = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)

    async def talk(customer: str, word: int) -> None:
        text = f"{customer}-{word}"
        assert (await bot.private(customer).say(text)).text == ""
        spoken[customer].append(text)

    async def answer(agent: str, word: int) -> None:
        """What an agent does in his own lane: claim on the first round, then answer each of his customers."""
        mine = [customer for customer in customers if owner[customer] == agent]
        for customer in chance.sample(mine, len(mine)):
            if word == WORDS // 3:
                await bot.private(agent).say(f"/claim {numbers[customer]}")
            if word >= WORDS // 3:
                text = f"a{customer[1:]}-{word}"
                said = await bot.private(agent).say(f"/reply {numbers[customer]} {text}")
                assert said.text == f"已发给 #{numbers[customer]}。"
                answered[customer].append(text)

    async def impatient(who: str, text: str) -> None:
        """A message whose bot is stopped while it is handled."""
        app = await bot.app()
        await app.dispatch.receive(bot.private(who).message(text))

    for word in range(WORDS):
        await asyncio.gather(
            *(talk(customer, word) for customer in customers), *(answer(agent, word) for agent in agents)
        )
        if word % 2:
            late = {customer: f"{customer}-{100 + word}" for customer in customers}
            replies = {customer: f"a{customer[1:]}-{100 + word}" for customer in customers if word > 2}
            said = list(late.items())
            said += [
                (owner[customer], f"/reply {numbers[customer]} {replies[customer]}") for customer in replies
            ]
            chance.shuffle(said)
            await asyncio.gather(*(impatient(who, text) for who, text in said))
            await asyncio.sleep(chance.random() / 20)
            await bot.close()
            for customer in customers:
                spoken[customer].append(late[customer])
                answered[customer] += [replies[customer]] if customer in replies else []
            left.append(unfinished(file))
            await bot.app()
    assert any(left)  # otherwise nothing was cut off
    for customer in customers:
        await bot.private(owner[customer]).say(f"/close {numbers[customer]}")
    everywhere = {chat: sent(file, chat) for chat in ("s1", *agents)}
    heard = defaultdict[str, list[str]](list)
    for text in [text for texts in everywhere.values() for text in texts if text.startswith("【#")]:
        found = re.match(r"【#(\d+)】(c\d+)：", text)
        assert found is not None
        assert numbers[found[2]] == int(found[1])
        heard[found[2]] += words([text], "c")
    for customer in customers:
        assert sorted(heard[customer]) == sorted(spoken[customer])
        assert words(sent(file, customer), "a") == answered[customer]
    for agent in agents:
        of_others = {customer for customer in customers if owner[customer] != agent}
        claimed = [text for text in everywhere[agent] if text.startswith("【#")]
        assert not {word.split("-")[0] for word in words(claimed, "c")} & of_others


async def test_the_relay_is_quick(bot_tester: BotTester, tmp_path: Path) -> None:
    """The time is only told: a busy machine decides nothing."""
    bot = (
        bot_tester.use(plugin)
        .use(echo)
        .configure(
            store={"url": f"sqlite+aiosqlite:///{tmp_path}/bot.db"},
            staff_chats=["bot:s1"],
            roles={"agents": ["bot:anna"]},
        )
    )
    user, other = bot.private("u1"), bot.private("u2")
    await user.say("转人工")
    await bot.private("anna").say("/claim 1")
    times = defaultdict[str, list[float]](list)
    for number in range(100):
        for name, who in (("relay", user), ("bot", other), ("reply", bot.private("anna"))):
            began = perf_counter()
            await who.say(f"第{number}句")
            times[name].append(perf_counter() - began)
    middle = {name: sorted(taken)[50] * 1000 for name, taken in times.items()}
    print({name: f"{taken:.1f} ms" for name, taken in middle.items()})  # noqa: T201
    told = [part.text for part in bot.connector.sent if part.target.chat == "anna" and part.inbox_id is None]
    assert told == [f"【#1】u1：第{number}句" for number in range(100)]
