"""What a model in this process counts, in a Prometheus registry of its own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64)


class RequestMeters:
    """Of any model; the registry can stand in another one, as a collector."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.waiting = self._gauge("waiting", "Requests in line")
        self.resident = self._gauge("resident", "Requests that are being read or answered")
        self.requests = self._counter("requests", "Requests, by how they ended", "end")
        self.first_token = self._histogram("first_token_seconds", "From the question to its first token")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"glmbot_model_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"glmbot_model_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(f"glmbot_model_{name}", text, buckets=buckets, registry=self.registry)


class Meters(RequestMeters):
    """All of one engine."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = self._gauge("pages", "Pages of the KV cache for requests")
        self.pages_reserved = self._gauge("pages_reserved", "Pages that requests have reserved")
        self.tokens_read = self._counter("prompt_tokens", "Tokens of prompts that were read")
        self.tokens = self._counter("answer_tokens", "Tokens of answers")
        self.restarts = self._counter("restarts", "Times a wedged worker was replaced")
        self.step = self._histogram("step_seconds", "One decode over all running answers")
        self.batch = self._histogram("batch", "Answers in a step", _BATCHES)
        self.gap = Gaps("glmbot_model_token_gap_seconds", "Between two tokens of an answer")
        self.registry.register(self.gap)

    def stepped(self, answers: int, seconds: float) -> None:
        """A step gave so many answers a token."""
        self.tokens.inc(answers)
        self.batch.observe(answers)
        self.step.observe(seconds)


class Gaps(Collector):
    """A histogram that takes the values of a step at once: one by one they would cost too much."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._lock = Lock()
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, counts: Iterable[tuple[float, int]]) -> None:
        """Count values, each so many times."""
        with self._lock:
            for value, times in counts:
                self._counts[bisect_left(_SECONDS, value)] += times
                self._sum += times * value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See `Collector`."""
        with self._lock:
            reached, total = list(accumulate(self._counts)), self._sum
        bounds = [*map(str, map(float, _SECONDS)), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], list(zip(bounds, reached, strict=True)), total)
        yield family
