"""When a talk goes to people though nobody asked: the bot missed, or was unsure, again and again."""

from __future__ import annotations

from dataclasses import dataclass

TIMES = 2
"""So many misses or unsure answers in a row are enough."""
LASTS = 1800.0
"""Seconds after which a streak is forgotten: who comes back tomorrow begins anew."""


@dataclass(frozen=True, slots=True)
class Streak:
    """How the bot did in a talk lately: answers in a row that missed, and that missed or were unsure.

    `offered`: why a person was offered with the last answer, "" where none was. `at`: unix time of it.
    """

    misses: int = 0
    unsure: int = 0
    offered: str = ""
    at: float = 0.0

    def now(self, at: float) -> Streak:
        """What is left of it at a unix time."""
        return self if at - self.at <= LASTS else Streak()

    def after(self, *, miss: bool, confidence: float | None, low: float, at: float) -> Streak:
        """The streak with one more answer, unsure below the confidence `low`."""
        before = self.now(at)
        if miss:
            return Streak(before.misses + 1, before.unsure + 1, at=at)
        if confidence is not None and confidence < low:
            return Streak(0, before.unsure + 1, at=at)
        return Streak(at=at)

    @property
    def reason(self) -> str:
        """Why it is time for a person: misses, unsure or "" for not yet."""
        if self.misses >= TIMES:
            return "misses"
        return "unsure" if self.unsure >= TIMES else ""
