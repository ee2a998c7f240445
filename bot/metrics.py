"""What the bot counts, in a registry of its own, as Prometheus reads it.

Labels hold names from the configuration and fixed words, nothing from a message: their number is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

HeldReason = Literal["member", "appchat", "chat", "robot", "api_pace", "api_frequency"]
"""Which limit makes a send wait."""
LostReason = Literal[
    "expired",
    "too_long",
    "invaliduser",
    "unlicenseduser",
    "quota",
    "human",
    "state",
    "send_fail",
    "old",
]
"""Why a platform shows nobody what was to be sent."""


class Outcome(StrEnum):
    """How one attempt to send ended."""

    SENT = "sent"
    RETRIED = "retried"
    FAILED = "failed"


@runtime_checkable
class Measured(Protocol):
    """What counts for itself, a model for instance."""

    @property
    def registry(self) -> CollectorRegistry:
        """Its series."""
        ...


class Metrics:
    """All counters, histograms and gauges of one bot."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.messages_received = self._counter("messages_received", "Messages taken in", "connector")
        self.duplicates = self._counter("duplicates", "Redelivered messages that were ignored", "connector")
        self.messages_answered = self._counter("messages_answered", "Messages a plugin answered", "plugin")
        self.handler_errors = self._counter(
            "handler_errors", "Handlers that raised or ran too long", "plugin"
        )
        self.sends = self._counter("sends", "Attempts to send", "connector", "outcome")
        self.held = self._counter("sends_held", "Sends that a limit made wait", "connector", "reason")
        self.lost = self._counter(
            "sends_lost", "Sends that the platform dropped, or will never take", "connector", "reason"
        )
        self.loop_stalls = self._counter("loop_stalls", "Times the event loop was blocked", "plugin")
        self.handler_seconds = self._histogram("handler_seconds", "Time in one handler", "plugin")
        self.ack_seconds = self._histogram(
            "ack_seconds",
            "From a message's arrival to its commit: the platform may be told then",
            "connector",
        )
        self.answer_seconds = self._histogram(
            "answer_seconds", "From a message's arrival to its committed answer", "connector"
        )
        self.lanes = self._gauge("lanes", "Sessions with a message at work or waiting")
        self.inbox_pending = self._gauge("inbox_pending", "Messages taken in and not done")
        self.outbox_pending = self._gauge("outbox_pending", "Replies not yet delivered")
        self.loop_lag_seconds = self._gauge("loop_lag_seconds", "How late the event loop runs")

    def include(self, registry: Collector) -> Callable[[], None]:
        """Show another's series, too, until what is returned is called."""
        self.registry.register(registry)
        return lambda: self.registry.unregister(registry)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The body and the content type of /metrics for a request's Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"glmbot_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"glmbot_{name}", text, labels, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"glmbot_{name}", text, registry=self.registry)
