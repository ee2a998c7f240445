"""Search of a small and of a very large FAQ: latency on one core, memory, cold and warm start, updates.

    python tests/benchmarks/bench_retrieval.py [--entries 100000] [--json FILE]

The large FAQ is made up, one question and one similar question an entry; each phase has a process of its own,
with one BLAS thread, so that its memory and its time are those of a bot that just started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import report

from bot.retrieval import Entry, Index

PLACES = tuple("京沪广深蓉杭汉秦宁渝津苏湘郑青沈连厦昆皖")
THINGS = tuple(
    f"{what}{kind}"
    for what in ("电热", "无线", "折叠", "智能", "迷你", "儿童", "车载", "户外", "复古", "静音")
    for kind in ("水壶", "吹风机", "台灯", "音箱", "键盘")
)
ASKED = (
    ("{place}买的{thing}怎么退货", "在{place}购买{thing}想退掉"),
    ("{thing}寄到{place}要几天", "{place}多久能收到{thing}"),
    ("{thing}在{place}哪里维修", "{place}有没有{thing}的维修点"),
    ("{place}的{thing}什么时候有货", "{thing}在{place}何时补货"),
    ("{place}门店卖{thing}吗", "{place}的店里能买到{thing}么"),
    ("{thing}送到{place}运费多少", "往{place}寄{thing}邮费怎么算"),
    ("{place}可以上门安装{thing}吗", "{thing}在{place}包不包安装"),
    ("{place}买{thing}能开发票吗", "{thing}在{place}怎么开发票"),
    ("{place}的{thing}保修多久", "在{place}买的{thing}质保几年"),
    ("{place}有{thing}的优惠吗", "{thing}在{place}打折不"),
)
HELD_OUT = "请问{place}买的{thing}想退货该怎么办"
QUERIES = 400


def made_up(count: int) -> Iterator[Entry]:
    """`count` different entries."""
    models = range(-(-count // (len(PLACES) * len(THINGS) * len(ASKED))))
    for number, (model, place, thing, asked) in enumerate(product(models, PLACES, THINGS, ASKED)):
        if number == count:
            return
        name = f"{chr(65 + model % 26)}{model + 1}型{thing}"
        texts = tuple(text.format(place=place, thing=name) for text in asked)
        yield Entry(f"e{number}", texts, f"这是关于{place}{name}的回答。", tags=("made up",))


def memory() -> int:
    """Resident memory of this process in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def timed(call: Callable[[str], Any], texts: list[str]) -> dict[str, float]:
    """Latency percentiles and mean CPU time in ms."""
    taken, cpu = [], time.process_time()
    for text in texts:
        start = time.perf_counter()
        call(text)
        taken.append(1000 * (time.perf_counter() - start))
    return {
        "p50": report.percentile(taken, 50),
        "p99": report.percentile(taken, 99),
        "cpu": 1000 * (time.process_time() - cpu) / len(texts),
    }


def held_out(entries: list[Entry]) -> list[tuple[str, str]]:
    """New wordings of some entries' questions, with the ids; all different."""
    chosen = entries[:: len(ASKED)]
    step = max(1, len(chosen) // QUERIES)
    texts = []
    for entry in chosen[::step]:
        place, thing = entry.texts[0].removesuffix("怎么退货").split("买的", 1)
        texts.append((HELD_OUT.format(place=place, thing=thing), entry.id))
    return texts


def phase(name: str, count: int, cache: Path) -> dict[str, Any]:
    """What one process measures: `build` fills the cache, `serve` starts from it."""
    entries = list(made_up(count))
    start = time.perf_counter()
    index = Index("faq", cache=cache)
    first = None

    def progress(done: int, total: int) -> None:
        nonlocal first
        if first is None and index.exact(entries[-1].texts[0]) is not None:
            first = time.perf_counter() - start

    index.replace(entries, progress)
    result: dict[str, Any] = {
        "start_s": time.perf_counter() - start,
        "exact_after_s": first,
        "built_mib": memory(),
    }
    if name == "serve":
        asked = held_out(entries)
        index.search("你好")
        result["search"] = timed(index.search, [text for text, _ in asked])
        result["right"] = sum(index.search(text)[0].id == right for text, right in asked) / len(asked)
        exact = [entry.texts[0] for entry in entries[:: max(1, count // 2000)]]
        result["exact"] = timed(index.exact, exact)
        result["search_mib"] = memory()
        start = time.perf_counter()
        index.upsert([Entry("new", ("一条全新的问题", "另一种问法"), "新的回答")])
        result["upsert_s"] = time.perf_counter() - start
    result["mib"] = memory()
    return result


def run_phase(name: str, count: int, cache: str) -> dict[str, Any]:
    """A phase in a fresh process."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--phase", name, "--entries", str(count), "--cache", cache]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    arguments = report.parser("Latency, memory and start of retrieval.")
    arguments.add_argument("--entries", type=int, default=100_000, help="entries of the large FAQ")
    arguments.add_argument("--phase", choices=("build", "serve"), help="one phase only, as JSON")
    arguments.add_argument("--cache", type=Path, help="folder of cached vectors, for --phase")
    given = arguments.parse_args()
    if given.phase:
        print(json.dumps(phase(given.phase, given.entries, given.cache)))
        return
    results = report.Report("retrieval")
    for count in sorted({100, 1_000, given.entries}):
        with tempfile.TemporaryDirectory() as cache:
            cold = run_phase("build", count, cache)
            warm = run_phase("serve", count, cache)
        results.row(
            entries=count,
            **{
                "cold s": cold["start_s"],
                "warm s": warm["start_s"],
                "search p50 ms": warm["search"]["p50"],
                "p99 ms": warm["search"]["p99"],
                "CPU ms": warm["search"]["cpu"],
                "exact p50 us": 1000 * warm["exact"]["p50"],
                "upsert s": warm["upsert_s"],
                "MiB": warm["search_mib"],
                "MiB after upsert": warm["mib"],
                "MiB cold": cold["mib"],
                "right first": warm["right"],
            },
        )
        if count == 100:
            results.at_most("search of 100 entries, CPU", warm["search"]["cpu"], 4, "ms")
        if count == given.entries:
            results.at_most(f"search of {count:,} entries, p50", warm["search"]["p50"], 25, "ms")
            results.at_most(f"warm start with {count:,} entries", warm["start_s"], 15, "s")
            results.at_most(f"memory with {count:,} entries", max(warm["mib"], cold["mib"]), 800, "MiB")
            results.note(
                f"In the cold start exact questions were answered after {cold['exact_after_s']:.1f} s."
            )
    results.note("Searches include the encoder; every query is new to it. One BLAS thread.")
    results.note(
        "`right first`: held-out wordings whose entry comes first; rivals differ by one letter or digit."
    )
    results.close(given.json)


if __name__ == "__main__":
    main()
