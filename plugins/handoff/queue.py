"""The line of those who wait for a person: where one stands in it, and roughly how long it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from plugins.handoff.tables import Handoff

EACH = 180.0
"""Seconds that one who waits takes, where nothing is known yet."""
LATELY = 3600.0
"""Seconds within which takings tell how fast it goes."""


def line_of(handoffs: Collection[Handoff]) -> list[Handoff]:
    """Those who wait for a person here, first come first served."""
    waiting = (item for item in handoffs if item.state == "queued" and not item.by_platform)
    return sorted(waiting, key=lambda item: item.number)


def position(handoff: Handoff, handoffs: Collection[Handoff]) -> int:
    """Where one stands in the line: 1 is next; behind all others where he is not in it yet."""
    return sum(item.number < handoff.number for item in line_of(handoffs)) + 1


def minutes(position: int, takes: Sequence[float], now: float) -> int:
    """Roughly how long the wait is, at the pace at which talks were taken lately (unix times, in order)."""
    lately = [at for at in takes if now - at <= LATELY]
    each = (lately[-1] - lately[0]) / (len(lately) - 1) if len(lately) > 2 else EACH
    return max(1, round(position * each / 60))
