"""The numbers of digests as Prometheus reads them: over the last day and the last seven."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugins.digest.numbers import Numbers

WINDOWS = {"1d": 86400.0, "7d": 7 * 86400.0}


class Gauges(Collector):
    """What was computed last, by window; labels are plugins and reasons, never what people wrote."""

    def __init__(self) -> None:
        self.numbers: dict[str, Numbers] = {}

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        questions = _family("questions", "Questions, by who answered; empty where nobody did", "answered_by")
        misses = _family("misses", "Questions that got no answer")
        escalations = _family("escalations", "Talks that were handed over, by reason", "reason")
        rate = _family("escalation_rate", "Talks that were handed over, by question")
        votes = _family("votes", "Thumbs", "vote")
        for window, found in self.numbers.items():
            unanswered = found.questions - sum(found.answered.values())
            for plugin, count in {**found.answered, "": unanswered}.items():
                questions.add_metric([window, plugin], count)
            misses.add_metric([window], found.misses)
            for reason, count in found.escalated.items():
                escalations.add_metric([window, reason], count)
            if found.rate is not None:
                rate.add_metric([window], found.rate)
            votes.add_metric([window, "up"], found.up)
            votes.add_metric([window, "down"], found.down)
        yield from (questions, misses, escalations, rate, votes)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"glmbot_service_{name}", text, labels=["window", *labels])
