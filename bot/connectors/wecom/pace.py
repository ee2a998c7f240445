"""Sliding windows over what was sent, so that a platform's limits are kept before it enforces them."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` within any `seconds`."""

    count: int
    seconds: float


class Pace:
    """Counts per key (a member, a chat, a robot, an API) against several limits at once.

    Memory is bounded: a key is forgotten once all its windows are empty, and beyond `capacity` the keys
    that were not asked for longest.
    """

    def __init__(
        self, *limits: Limit, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not limits or any(limit.count < 1 for limit in limits):
            raise ValueError("a pace needs limits of at least one")
        self._limits = limits
        self._most = max(limit.count for limit in limits)
        self._longest = max(limit.seconds for limit in limits)
        self._capacity = capacity
        self._clock = clock
        self._keys: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Count one more for `key`: 0.0; or the seconds until it fits, and nothing is counted."""
        now = self._clock()
        self._forget(now)
        stamps = self._keys.get(key)
        if stamps is None:
            stamps = self._keys[key] = deque(maxlen=self._most)
            if len(self._keys) > self._capacity:
                self._keys.popitem(last=False)
        self._keys.move_to_end(key)
        wait = max(self._wait(stamps, limit, now) for limit in self._limits)
        if wait <= 0:
            stamps.append(now)
            return 0.0
        return wait

    @staticmethod
    def _wait(stamps: deque[float], limit: Limit, now: float) -> float:
        """Seconds until one more fits one limit: until the last but `count` has left the window."""
        return stamps[-limit.count] + limit.seconds - now if len(stamps) >= limit.count else 0.0

    def _forget(self, now: float) -> None:
        """Drop keys from the old end as long as all their windows are empty."""
        while self._keys:
            key, stamps = next(iter(self._keys.items()))
            if stamps and stamps[-1] + self._longest > now:
                return
            del self._keys[key]
