"""A digest over a million messages: from the counts, with questions without an answer put into groups."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

import psutil
import report

from bot.retrieval import Encoder, load_encoder
from bot.store import Step, Store, Tally
from bot.store.migrations import upgrade
from plugins.digest.counting import seconds_class
from plugins.digest.numbers import collect

TARGET = 10.0
MEMORY = 1 << 30
DAY = 86_400.0
START = 20_000 * DAY
CHATS = [f"main:{number}" for number in range(20)]
SUBJECTS = tuple("退运票券单址码换员分流预质付款")
WORDS = tuple("怎能何为久里可需如昨今已没收客手网失显修")


def steps(chance: random.Random, messages: int, distinct: int, days: int) -> list[Step]:
    """What as many messages leave in the counts: few questions are asked often, many hardly ever."""
    texts = [
        f"{chance.choice(SUBJECTS)}{''.join(chance.choices(WORDS, k=4))}{n % 97}" for n in range(distinct)
    ]
    weights = [1 / (rank + 3) for rank in range(distinct)]
    made = list[Step]()
    for text in chance.choices(texts, weights, k=messages):
        at, chat, seconds = (
            START + chance.random() * days * DAY,
            chance.choice(CHATS),
            chance.expovariate(0.5),
        )
        missed = chance.random() < 0.15
        made.append(Tally.add(at, chat, "question", "" if missed else "faq", total=seconds))
        made.append(Tally.add(at, chat, "seconds", seconds_class(seconds)))
        made.append(Tally.add(at, chat, "text", text))
        if missed:
            made.append(Tally.add(at, chat, "miss", text))
        if chance.random() < 0.02:
            made.append(Tally.add(at, chat, "escalated", chance.choice(("asked", "misses", "tone"))))
    return made


async def measure(options: argparse.Namespace, encoder: Encoder, results: report.Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite+aiosqlite:///{Path(folder) / 'bot.db'}")
        await upgrade(store)
        store.start()
        made = steps(random.Random(1), options.messages, options.distinct, options.days)
        statement = made[0].statement
        rows = [row for step in made for row in step.rows]
        for start in range(0, len(rows), 20_000):
            await store.write(Step(statement, rows[start : start + 20_000]))
        del made, rows
        encoder.encode(["warm", "up"])
        process = psutil.Process()
        before, began = process.memory_info().rss, time.perf_counter()
        until = START + options.days * DAY
        numbers = await collect(Tally(store), START, until, zone="Asia/Shanghai", encoder=encoder)
        took, memory = time.perf_counter() - began, process.memory_info().rss - before
        results.row(
            messages=numbers.questions,
            seconds=round(took, 2),
            memory_mib=memory >> 20,
            groups=len(numbers.unanswered),
            days=options.days,
        )
        results.at_most("a digest", took, TARGET, "s")
        results.at_most("memory more than before", memory / MEMORY, 1, "GiB")
        await store.close()


def main() -> None:
    parser = report.parser(__doc__ or "")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--distinct", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=30)
    options = parser.parse_args()
    results = report.Report(f"digest: {options.messages:,} messages, {options.distinct:,} distinct questions")
    asyncio.run(measure(options, load_encoder(), results))
    results.close(options.json)


if __name__ == "__main__":
    main()
