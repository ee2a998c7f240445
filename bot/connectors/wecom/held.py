"""Sends that a limit makes wait, each counted once, however often it is tried."""

from __future__ import annotations

from collections import OrderedDict

from bot.metrics import HeldReason, Metrics

CAPACITY = 10_000


class HeldSends:
    """Counts the parts of one connector that wait; what waits longest is forgotten beyond `capacity`."""

    def __init__(self, metrics: Metrics | None, connector: str, *, capacity: int = CAPACITY) -> None:
        self._metrics = metrics
        self._connector = connector
        self._capacity = capacity
        self._noted: OrderedDict[tuple[HeldReason, str], None] = OrderedDict()

    def note(self, reason: HeldReason, part: str) -> bool:
        """A part, by its key, has to wait: True where that is news. Nothing is counted for no part at all."""
        if not part or (reason, part) in self._noted:
            return False
        self._noted[reason, part] = None
        if len(self._noted) > self._capacity:
            self._noted.popitem(last=False)
        if self._metrics is not None:
            self._metrics.held.labels(self._connector, reason).inc()
        return True
