"""Moderation of 4 KB texts against 100,000 words, and what the words cost in time and memory.

The words and texts are made up: their characters are drawn as often as those of a real list. Without
`--pinyin` no word is looked for in letters.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import string
import time
from collections.abc import Callable

import psutil
import report

from plugins.moderation.lexicon import Lexicon, masked
from plugins.moderation.streaming import StreamFilter
from plugins.moderation.words import MAX_WORDS, Word

TARGET = 1.0
BYTES = 4096
HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3500)]
PLAIN = "the order class of my parcel is not here when does it come please help with delivery and invoice"


def words_of(chance: random.Random, count: int, *, pinyin: bool) -> list[Word]:
    """Four of five are Chinese, of two to six characters; the others of three to ten letters."""
    texts: set[str] = set()
    while len(texts) < count:
        chinese = chance.random() < 0.8
        size = chance.choice((2, 3, 3, 4, 4, 5, 6)) if chinese else chance.randint(3, 10)
        texts.add("".join(chance.choices(HAN if chinese else string.ascii_lowercase, k=size)))
    return [Word(text, "mask", pinyin) for text in sorted(texts)]


def texts_of(chance: random.Random, words: list[Word]) -> dict[str, str]:
    """What is moderated: 4 KB as UTF-8, and for Chinese also 4,096 characters, three times as much."""
    clean = "".join(
        chance.choice(HAN) if chance.random() < 0.9 else chance.choice("，。 a1") for _ in range(BYTES)
    )
    english = " ".join(chance.choices(PLAIN.split(), k=1200))[:BYTES]
    dirty = "".join(chance.choice(words).text + " " for _ in range(BYTES))
    return {
        "Chinese, 4 KB": clean[: BYTES // 3],
        "English, 4 KB": english,
        "Chinese, 4 KB, one word in 100 characters": _with(clean[: BYTES // 3], words, chance),
        "English, 4 KB, one word in 100 characters": _with(english, words, chance),
        "Chinese, 4,096 characters": clean,
        "nothing but words, 4 KB": dirty.encode()[:BYTES].decode(errors="ignore"),
    }


def _with(text: str, words: list[Word], chance: random.Random) -> str:
    pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
    return "".join(f"{piece} {chance.choice(words).text} " for piece in pieces)[: len(text)]


def timed(work: Callable[[], object], rounds: int) -> list[float]:
    """Milliseconds of each call."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000)
    return spent


async def lag_while(work: Callable[[], object]) -> float:
    """The longest that the event loop was kept from running, in ms, while `work` runs in a thread."""
    longest, thread = 0.0, asyncio.create_task(asyncio.to_thread(work))
    while not thread.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - began - 0.001)
    await thread
    return longest * 1000


def run(options: argparse.Namespace) -> report.Report:
    results = report.Report(f"moderation: {options.words:,} words")
    chance = random.Random(1)
    words = words_of(chance, options.words, pinyin=options.pinyin)
    made: list[Lexicon] = []
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    lag = asyncio.run(lag_while(lambda: made.append(Lexicon(words))))
    took, memory = time.perf_counter() - began, psutil.Process().memory_info().rss - before
    lexicon = made[0]
    for name, text in texts_of(chance, words).items():
        found = len(lexicon.hits(text))
        spent = timed(lambda text=text: masked(text, lexicon.hits(text)), options.rounds)  # type: ignore[misc]
        p50, p99 = report.percentile(spent, 50), report.percentile(spent, 99)
        results.row(text=name, words=found, p50_ms=p50, p99_ms=p99)
        if "4 KB" in name:
            results.at_most(f"{name}, p50", p50, TARGET, "ms")
    stream = StreamFilter(lexicon)
    pieces = [text[at : at + 4] for text in texts_of(chance, words).values() for at in range(0, len(text), 4)]
    spent = [timed(lambda piece=piece: stream.push(piece), 1)[0] for piece in pieces]  # type: ignore[misc]
    p50, p99 = report.percentile(spent, 50), report.percentile(spent, 99)
    results.row(text="a streamed piece of 4 characters", p50_ms=p50, p99_ms=p99)
    results.at_most("a streamed piece, p99", p99, TARGET, "ms")
    results.note("p99 is what a message may wait where other programs take turns on the same cores.")
    results.row(text=f"building: {took:.2f} s, {memory >> 20} MiB, loop lag {lag:.1f} ms")
    return results


def main() -> None:
    parser = report.parser(__doc__ or "")
    parser.add_argument("--words", type=int, default=MAX_WORDS)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--pinyin", action="store_true", help="also look for each word's pinyin")
    options = parser.parse_args()
    run(options).close(options.json)


if __name__ == "__main__":
    main()
