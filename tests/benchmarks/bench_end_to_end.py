"""A signed webhook in, its reply delivered: throughput and acknowledgement times of a whole bot under load.

The bot is a process of its own with the sample FAQ and documents and SQLite in a file; load generator and
receiver are this process, on the same machine. Each kind of question runs twice: as fast as 64 chats that ask
again once they are answered can go, and at the target's pace by the clock, where acknowledgements are judged.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import report
import yaml
from load import SECRET, Load, Question, Receiver

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.e2e.bot_process import FAQ_SAMPLES, BotProcess, sample_config  # noqa: E402

HELD_OUT = ROOT / "tests" / "data" / "faq_zh_heldout.jsonl"
CHATS = 64
TARGETS = {"verbatim": 400.0, "paraphrase": 120.0}
ACK_P99 = 100.0
BEFORE = ("", "你好，", "请问", "您好，请问", "想问一下，", "问下", "麻烦问一下，", "亲，", "客服你好，")
BEHIND = ("", "？", "呢", "呀？", "，谢谢", "，谢谢！", "，急", "，麻烦了", "，在线等", "，多谢")
MORE = ("", "我", "就是", "那个，", "哦对了，", "话说", "顺便问下，", "还有，")


def verbatim() -> Iterator[Question]:
    """The questions of the sample FAQ as they stand there, again and again."""
    entries = [entry for file in FAQ_SAMPLES for entry in yaml.safe_load(file.read_text(encoding="utf-8"))]
    questions = [
        Question(text, entry["id"])
        for entry in entries
        for text in (entry["question"], *entry.get("similar", ()))
    ]
    Random(1).shuffle(questions)
    return itertools.cycle(questions)


def paraphrases() -> Iterator[Question]:
    """Held-out questions in changing dress: no text comes twice, so no remembered vector helps."""
    held_out = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    chance = Random(2)
    for number in itertools.count():
        dresses = list(itertools.product(BEFORE, MORE, BEHIND))
        chance.shuffle(dresses)
        for before, more, behind in dresses:
            chance.shuffle(held_out)
            for row in held_out:
                text = f"{before}{more}{row['query'].rstrip('？?')}{behind}"
                yield Question(text if number == 0 else f"{text} {number}", row["expected"])


KINDS = {"verbatim": verbatim, "paraphrase": paraphrases}


async def measure(options: argparse.Namespace, results: report.Report) -> int:
    """All runs against one bot; returns how many messages were lost or doubled."""
    receiver = Receiver()
    wrong = 0
    async with receiver.open() as reply_url:
        with tempfile.TemporaryDirectory() as place:
            source = {"type": "webhook", "name": "shop", "secret": SECRET, "reply_url": reply_url}
            async with BotProcess(Path(place), sample_config(Path(place), source)) as bot:
                await _run(bot, receiver, "paraphrase", 2.0, None)  # loads the encoder
                for kind in options.kinds:
                    for rate in (None, TARGETS[kind]):
                        wrong += await _measure(bot, receiver, kind, options.seconds, rate, results)
                bot.terminate()
                code = await bot.ended()
    if code:
        results.note(f"the bot ended with exit code {code}")
    return wrong + abs(code)


async def _measure(
    bot: BotProcess, receiver: Receiver, kind: str, seconds: float, rate: float | None, results: report.Report
) -> int:
    process, ours = psutil.Process(bot.pid), psutil.Process()
    before, ours_before = _cpu(process), _cpu(ours)
    load, took = await _run(bot, receiver, kind, seconds, rate)
    tally = load.tally
    acks, answers = ([1000 * value for value in values] for values in (tally.acks, tally.answers))
    cells = {
        "questions": kind,
        "load": "closed loop" if rate is None else f"{rate:g}/s",
        "accepted/s": tally.accepted / took,
        "delivered/s": tally.in_time / took,
        "ack p50 ms": report.percentile(acks, 50),
        "ack p99 ms": report.percentile(acks, 99),
        "answer p50 ms": report.percentile(answers, 50),
        "answer p99 ms": report.percentile(answers, 99),
        "accepted": tally.accepted,
        "refused": tally.refused,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "right": f"{100 * tally.right / max(1, tally.accepted):.1f} %",
        "bot CPU ms/message": 1000 * (_cpu(process) - before) / max(1, tally.accepted),
        "load CPU ms/message": 1000 * (_cpu(ours) - ours_before) / max(1, tally.accepted),
        "bot RSS MB": process.memory_info().rss / 1e6,
    }
    results.row(**cells)
    if rate is None:
        results.at_least(f"{kind}, delivered", cells["delivered/s"], TARGETS[kind], "messages/s")
    else:
        results.at_most(f"{kind} at {rate:g}/s, ack p99", cells["ack p99 ms"], ACK_P99, "ms")
    results.at_most(f"{kind}, {cells['load']}, lost or doubled", tally.lost + tally.doubled, 0)
    if kind == "verbatim":
        results.at_least(f"{kind}, {cells['load']}, right", tally.right, tally.accepted)
    return tally.lost + tally.doubled


async def _run(
    bot: BotProcess, receiver: Receiver, kind: str, seconds: float, rate: float | None
) -> tuple[Load, float]:
    load = Load(bot.port, _QUESTIONS[kind], receiver, chats=CHATS, name=f"{kind}-{time.time_ns()}")
    print(f"{kind}, {'closed loop' if rate is None else f'{rate:g}/s'}: {seconds:g} s", file=sys.stderr)
    return load, await load.run(seconds, rate)


_QUESTIONS = {kind: questions() for kind, questions in KINDS.items()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Run, report, and fail when a message was lost or doubled."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the four runs (default 60)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of questions")
    options = parser.parse_args()
    results = report.Report("end to end: webhook in, reply delivered")
    results.note("Bot, load generator and receiver share the machine; the store commits to a file (WAL).")
    results.note("`right`: the reply names the expected FAQ entry as its source.")
    before = psutil.getloadavg()[0]
    wrong = asyncio.run(measure(options, results))
    results.note(f"Load average (1 min) before: {before:.1f}, after: {psutil.getloadavg()[0]:.1f}.")
    results.close(options.json)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
