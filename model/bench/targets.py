"""What is wanted of ChatGLM-6B on a CPU: fractions of limits, and ratios to peers in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from model.bench.loading import Loaded
from model.bench.report import OURS, Report, Target

LOAD = "load, file cached"
HEALTH = "/healthz while it decodes"
FAST = 47e9
"""Bytes a second, between 34 and 60 GB/s: slower memory bounds llama.cpp, faster memory no more."""


def targets(report: Report, loads: Sequence[Loaded]) -> Iterator[Target]:
    """Those that were measured."""
    decode, prefill = report.of("decode, batch 1"), report.of("prefill, 512 tokens")
    if decode is not None and decode.bandwidth is not None:
        reached = median(one.of_bandwidth for one in decode.reached)
        yield Target("decode, batch 1: of the bandwidth", 100 * reached, ">=", 85, "%")
        fast = sum(decode.bandwidth) / 2 >= FAST
        yield from _against(report, "decode, batch 1", "llama.cpp", 1.5 if fast else 0.95)
    yield from _against(report, "decode, batch 1", "chatglm.cpp", 2.2)
    yield from _against(report, "decode, batch 16", "llama.cpp", 2.0)
    yield from _against(report, "prefill, 512 tokens", "llama.cpp", 2.0)
    yield from _against(report, "prefill, 512 tokens", "chatglm.cpp", 5.0)
    if prefill is not None and prefill.reached:
        reached = median(one.of_dot for one in prefill.reached)
        yield Target("prefill, 512 tokens: of the dot peak", 100 * reached, ">=", 60, "%")
    more = [(one.peak - one.file - one.kv) / 1e6 for one in loads if one.peak is not None]
    if more:
        yield Target("peak memory beyond file and KV cache", max(more), "<=", 600, "MB")
    for name, most, unit in ((LOAD, 2.0, "s"), (f"{HEALTH}, p99", 50, "ms")):
        figure = report.of(name)
        if figure is not None:
            yield Target(name, figure.middle, "<=", most, unit)


def _against(report: Report, name: str, peer: str, wanted: float) -> Iterator[Target]:
    times = report.ratio(name, peer)
    if times is not None:
        yield Target(f"{name}: {OURS} against {peer}", times, ">=", wanted, "x")
