"""What a bot costs before it does anything, and whether a million users make it grow.

Import time and start to ready are those of fresh processes with the shipped samples. The users are a million
distinct ones, each with a chat of its own, through the real dispatch, turn, limits and cooldowns; only the
database is replaced, by one that keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil
import report

from bot import Chat, Message, Plugin, User, cooldown
from bot.catalogue import Catalogue
from bot.config import Config, GroupSettings
from bot.dispatch import Dispatch, Place
from bot.inject import Injector
from bot.loader import Loaded, Plugins, compile_program
from bot.metrics import Metrics
from bot.outbox import Outbox
from bot.plugin import NoConfig
from bot.reply import Outgoing
from bot.store import History, Step
from bot.store.inbox import Inbox
from bot.store.outbox import OutboxTable
from bot.testing import FakeConnector
from bot.turn import Desk

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.e2e.bot_process import BotProcess, sample_config
from tests.e2e.platforms import SECRET, signed

IMPORT_MS = 200
READY_SECONDS = 5
IDLE_MB = 350
USERS = 1_000_000
FILLED = 200_000
"""After so many users everything bounded is full; what is added from there on is growth."""
GROWTH_MB = 20
BATCH = 500
RETURNED = {name: namedtuple("Returned", ("id", name)) for name in ("trace", "key")}
"""Rows of RETURNING by what tells inbox from outbox."""
QUESTIONS = ("运费是多少", "我想问问快递一般走几天呀", "how do I return a broken kettle")


def import_time(runs: int) -> tuple[float, bool]:
    """(median milliseconds of `import bot` in a fresh process, whether it brought torch along)."""
    program = (
        "import sys, time; began = time.perf_counter(); import bot; "
        "print(time.perf_counter() - began, 'torch' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(runs)
    ]
    return 1000 * median(float(line.split()[0]) for line in said), any("True" in line for line in said)


async def start_to_ready(runs: int, results: report.Report) -> None:
    """Start the bot with the samples several times, then look at its memory before and after questions."""
    with tempfile.TemporaryDirectory() as place:
        source = {"type": "webhook", "name": "shop", "secret": SECRET}
        config = sample_config(Path(place), {"type": "webchat", "name": "site"}, source)
        bot = BotProcess(Path(place), config)
        seconds = []
        for _ in range(runs):
            seconds.append(await bot.start())
            if len(seconds) < runs:
                bot.terminate()
                await bot.ended()
        async with asyncio.timeout(60):
            idle = await _settled_rss(bot)
            await _ask(bot)
            after = await _settled_rss(bot)
        bot.terminate()
        await bot.ended()
    results.row(what="start to ready, first (no vectors cached)", value=seconds[0], unit="s")
    results.row(what="start to ready, later (median)", value=median(seconds[1:] or seconds), unit="s")
    results.row(what="RSS, idle", value=idle, unit="MB")
    results.row(what="RSS, after the first questions", value=after, unit="MB")
    results.at_most("start to ready, slowest", max(seconds), READY_SECONDS, "s")
    results.at_most("RSS of an idle bot", idle, IDLE_MB, "MB")
    results.at_most("RSS after the first questions", after, IDLE_MB, "MB")


async def _settled_rss(bot: BotProcess) -> float:
    """MB once it has not changed by more than 1 for a second."""
    process = psutil.Process(bot.pid)
    before, now = 0.0, process.memory_info().rss / 1e6
    while abs(now - before) > 1:
        await asyncio.sleep(1)
        before, now = now, process.memory_info().rss / 1e6
    return float(now)


async def _ask(bot: BotProcess) -> None:
    async with aiohttp.ClientSession() as client:
        for number, question in enumerate(QUESTIONS):
            fields = {"type": "message", "chat_id": "c", "user_id": "u", "text": question}
            body = json.dumps(fields).encode()
            headers = signed(f"q{number}", body)
            async with client.post(f"{bot.base}/webhook/shop", data=body, headers=headers) as response:
                assert (await response.json())["replies"], "no answer"


# -- a million users ----------------------------------------------------------------------------


class Void:
    """A store that accepts everything and keeps nothing."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    async def write(self, *steps: Step) -> Mapping[Any, Sequence[Any]]:
        """What RETURNING would give: each row with an id."""
        return {
            step.statement: [row_of(next(self._ids), row[name]) for row in step.rows]
            for step in steps
            for name, row_of in RETURNED.items()
            if step.rows and name in step.rows[0]
        }


@dataclass(frozen=True)
class Sample:
    """Resident memory after so many users."""

    users: int
    megabytes: float


def dispatch_between(connector: FakeConnector, store: Any) -> Dispatch:
    """The real way of a message, with limits and a cooldown on."""
    plugin = Plugin("bench")

    @plugin.command("hello", rules=[cooldown("10m")])
    async def hello(args: str) -> str:
        return f"hello {args}"

    config = Config.model_validate(
        {"connectors": [], "limits": {"per_user": "20/minute", "per_group": "60/minute"}}
    )
    places = {(connector.kind, connector.name): Place(connector, GroupSettings())}
    metrics, table = Metrics(), OutboxTable(store)
    desk = Desk(
        store=store,
        inbox=Inbox(store),
        outbox=Outbox(table, {key: place.connector for key, place in places.items()}, metrics),
        outbox_table=table,
        history=History(store),
        catalogue=Catalogue.load({}),
        metrics=metrics,
        model=None,
        deadline=60.0,
        history_budget=768,
        history_rounds=20,
    )
    program = compile_program(Plugins([Loaded(plugin, NoConfig(), "bench")]), Injector({}))
    return Dispatch(desk, program, places, config)


class Counting(FakeConnector):
    """Counts what it is sent, and keeps nothing."""

    count = 0

    async def send(self, outgoing: Outgoing) -> None:
        """One more."""
        self.count += 1


async def users(total: int) -> list[Sample]:
    """Let each of `total` users say one thing in a group of his own; memory every tenth of the way."""
    connector = Counting()
    dispatch = dispatch_between(connector, Void())
    process = psutil.Process()
    samples: list[Sample] = []
    for start in range(0, total, BATCH):
        batch = [
            Message(
                connector.kind,
                connector.name,
                delivery=f"d{number}",
                chat=Chat(f"group {number}", group=True),
                user=User(f"user {number}", name=f"name of {number}"),
                text="/hello there",
                mentioned=True,
            )
            for number in range(start, start + BATCH)
        ]
        await dispatch.receive_many(batch)
        while dispatch.pending:  # noqa: ASYNC110 - a turn of the loop is all it takes
            await asyncio.sleep(0)
        if (start + BATCH) % max(BATCH, total // 10) == 0:
            samples.append(Sample(start + BATCH, process.memory_info().rss / 1e6))
            print(f"{start + BATCH:,} users", end="\r", file=sys.stderr, flush=True)
    assert connector.count == total, f"{connector.count} answers to {total} users"
    return samples


def grown(total: int, results: report.Report) -> None:
    """Measure that in a process of its own."""
    began = time.perf_counter()
    program = [sys.executable, __file__, "--only-users", str(total)]
    said = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout
    samples = [Sample(**item) for item in json.loads(said.splitlines()[-1])]
    for sample in samples:
        results.row(what=f"RSS after {sample.users:,} users", value=sample.megabytes, unit="MB")
    results.row(what="users per second", value=total / (time.perf_counter() - began), unit="/s")
    if total < 2 * FILLED:
        results.note(f"growth is judged with {2 * FILLED:,} users and more")
        return
    filled = next(sample for sample in samples if sample.users >= FILLED)
    growth = samples[-1].megabytes - filled.megabytes
    results.at_most(f"growth from {filled.users:,} to {total:,} users", growth, GROWTH_MB, "MB")


def run(options: argparse.Namespace) -> report.Report:
    """All three."""
    results = report.Report("start and memory")
    milliseconds, torch = import_time(options.runs)
    results.row(what="import bot (median)", value=milliseconds, unit="ms")
    results.at_most("import bot", milliseconds, IMPORT_MS, "ms")
    results.at_most("torch imported by it", int(torch), 0)
    asyncio.run(start_to_ready(options.runs, results))
    grown(options.users, results)
    results.note("Start to ready: from the process's start to 200 on /readyz, looked at every 20 ms.")
    results.note(
        f"Users: dispatch, lanes, turn, limits and cooldowns are real, the database keeps nothing; bounded "
        f"structures are full by {FILLED:,} users, and what comes after that is growth."
    )
    return results


def main() -> None:
    """The whole run, or only the users in this process."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes each (default 5)")
    parser.add_argument("--users", type=int, default=USERS, help="how many distinct users (default 1000000)")
    parser.add_argument("--only-users", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_users:
        print(json.dumps([vars(sample) for sample in asyncio.run(users(options.only_users))]))
        return
    run(options).close(options.json)


if __name__ == "__main__":
    main()
