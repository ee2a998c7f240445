"""Routed messages per CPU-second with 1 to 500 handlers, beside other frameworks in the same run.

A routed message is what `bot.turn` does for one: look-up, rule check, planned injection, awaited handler.
"Full turn" adds what a deployment has: dedupe, lane, inbox, history and answer committed to SQLite in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count as counter
from pathlib import Path
from statistics import median
from typing import Any

import report
from router_peers import CHATS, PATTERN, PEERS, TEXTS

from bot import Chat, Cooldowns, Facts, Message, Plugin, User, to_me
from bot.inject import Call, Injector
from bot.plugin import NoConfig
from bot.router import Router
from bot.testing import BotTester

HANDLERS = (1, 20, 100, 500)
OURS = "glmbot"
TARGET = 50_000
FLAT = 0.30
NOTES = (
    "CPU-seconds of one process per cell; median of the rounds, in which the systems take turns.",
    "Each message matches the last handler registered, in a group where the bot was addressed.",
    "aiogram and python-telegram-bot build an API object for every answer, nonebot2's fake bot and "
    "glmbot's rows `routed` do not; nonebot2 starts about 14 tasks per matcher and message.",
    "nonebot2's line per event in the log is off.",
    "`full turn` includes composing the answer, two commits to SQLite in memory and fetching it; "
    "the peers store nothing.",
)


def handlers_of(kind: str, count: int) -> Plugin:
    """A plugin with `count` handlers of one kind."""
    plugin = Plugin("bench")

    def add(number: int) -> None:
        name = f"cmd{number:03d}"
        register = {
            "command": lambda: plugin.command(name, rules=[to_me]),
            "keyword": lambda: plugin.keyword(name, rules=[to_me]),
            "regex": lambda: plugin.regex(PATTERN.format(number), rules=[to_me]),
        }[kind]

        @register()
        async def answer(message: Message, args: str) -> str:
            return "ok"

    for number in range(count):
        add(number)
    return plugin


def messages_of(kind: str, number: int) -> list[Message]:
    """One message from each chat, for the handler with this number."""
    return [
        Message(
            "test",
            "bot",
            delivery=f"d{chat}",
            chat=Chat(f"g{chat}", group=True),
            user=User(f"u{chat}"),
            text=TEXTS[kind].format(number),
            mentioned=True,
            to_me=True,
        )
        for chat in range(CHATS)
    ]


async def routed(kind: str, count: int, seconds: float) -> dict[str, Any]:
    """Router, rules, injection and handler, as `Turn` runs them."""
    plugin = handlers_of(kind, count)
    injector = Injector({})
    plans = {handler: injector.plan(handler, NoConfig()) for handler in plugin.handlers}
    router = Router(plugin.handlers)
    cooldowns = Cooldowns()
    answered = 0

    async def feed(message: Message) -> None:
        nonlocal answered
        facts = Facts(message.chat.id, frozenset(), "mention", cooldowns)
        for candidate in router.route(message):
            if not all(rule(message, facts) for rule in candidate.handler.rules):
                continue
            call = Call(message, None, candidate.args, candidate.match, facts=facts)
            answer = await plans[candidate.handler].run(call)
            if answer is not None:
                answered += 1
                return

    messages = messages_of(kind, count - 1)

    async def rounds() -> int:
        for message in messages:
            await feed(message)
        return len(messages)

    done, used = await _timed(rounds, seconds)
    assert answered == done + len(messages)
    return {"messages": done, "per_cpu_second": done / used}


async def full_turn(kind: str, count: int, seconds: float) -> dict[str, Any]:
    """Dispatch and store included: 64 chats at once, each waiting for its answer."""
    tester = BotTester().use(handlers_of(kind, count))
    messages = messages_of(kind, count - 1)
    numbers = counter()

    async def rounds() -> int:
        answers = await asyncio.gather(
            *(tester.deliver(replace(item, delivery=f"d{next(numbers)}", to_me=False)) for item in messages)
        )
        assert all(answer.text == "ok" for answer in answers)
        return len(answers)

    try:
        await tester.app()
        done, used = await _timed(rounds, seconds)
    finally:
        await tester.close()
    return {"messages": done, "per_cpu_second": done / used}


async def _timed(rounds: Callable[[], Awaitable[int]], seconds: float) -> tuple[int, float]:
    """(messages, CPU-seconds of all threads)."""
    await rounds()
    done = 0
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        done += await rounds()
    return done, time.process_time() - used


# -- the run ------------------------------------------------------------------------------------


def cell(python: str, program: Path, system: str, kind: str, count: int, seconds: float) -> float | None:
    """Messages per CPU-second of one cell in a process of its own; None when the system is not installed."""
    arguments = [python, "-W", "ignore", str(program), system, kind, str(count), str(seconds)]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if ended.returncode == 3:
        return None
    if ended.returncode:
        sys.exit(f"{system} {kind} {count}: {ended.stderr.strip()[-2000:]}")
    return float(json.loads(ended.stdout.splitlines()[-1])["per_cpu_second"])


def installed(python: str) -> list[str]:
    """The peers that this interpreter has, which are tried with one handler each."""
    program = Path(__file__).with_name("router_peers.py")
    return [peer for peer in PEERS if cell(python, program, peer, "command", 1, 0.01) is not None]


def run(options: argparse.Namespace) -> report.Report:
    """Every system, kind and number of handlers, in turns."""
    results = report.Report("router: messages per CPU-second")
    peers = installed(options.peer_python)
    for missing in [peer for peer in PEERS if peer not in peers]:
        results.note(
            f"{missing} was not measured: python -m venv PEERS && PEERS/bin/pip install {missing}, "
            "then --peer-python PEERS/bin/python"
        )
    here, theirs = Path(__file__), Path(__file__).with_name("router_peers.py")
    figures: dict[tuple[str, str, int], list[float]] = {}
    for turn in range(options.rounds):
        for kind in TEXTS:
            for count in options.handlers:
                print(f"round {turn + 1}: {kind} {count}  ", end="\r", file=sys.stderr, flush=True)
                for system in (OURS, *peers):
                    ours = system == OURS
                    python, program = (sys.executable, here) if ours else (options.peer_python, theirs)
                    value = cell(python, program, system, kind, count, options.seconds)
                    figures.setdefault((system, kind, count), []).append(value or 0.0)
    _add_rows(results, figures, options.handlers)
    for count in (options.handlers[0], options.handlers[-1]):
        value = cell(sys.executable, here, "full-turn", "command", count, max(1.0, options.seconds))
        results.row(system=f"{OURS}, full turn", kind="command", **{str(count): value})
    for note in NOTES:
        results.note(note)
    return results


def _add_rows(
    results: report.Report, figures: dict[tuple[str, str, int], list[float]], counts: Sequence[int]
) -> None:
    for kind in TEXTS:
        for system in dict.fromkeys(system for system, _, _ in figures):
            values = {count: median(figures[system, kind, count]) for count in counts}
            cells: dict[str, Any] = {str(count): value for count, value in values.items()}
            ours = median(figures[OURS, kind, counts[-1]])
            if system != OURS:
                cells[f"glmbot at {counts[-1]}"] = f"{ours / values[counts[-1]]:.0f}x"
            results.row(system=f"{OURS}, routed" if system == OURS else system, kind=kind, **cells)
        ours_all = [median(figures[OURS, kind, count]) for count in counts]
        results.at_least(f"routed, {kind}, slowest", min(ours_all), TARGET, "messages/CPU-s")
        results.at_most(f"routed, {kind}, loss from fewest to most", 1 - ours_all[-1] / ours_all[0], FLAT)


def main() -> None:
    """The whole run, or one cell of it: `bench_router.py SYSTEM KIND HANDLERS SECONDS`."""
    if len(sys.argv) == 5 and sys.argv[1] in (OURS, "full-turn"):
        measure = routed if sys.argv[1] == OURS else full_turn
        print(json.dumps(asyncio.run(measure(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
        return
    parser = report.parser(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each cell (default 0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each cell is measured (default 3)")
    parser.add_argument("--handlers", type=int, nargs="+", default=HANDLERS, help="numbers of handlers")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers")
    options = parser.parse_args()
    run(options).close(options.json)


if __name__ == "__main__":
    main()
