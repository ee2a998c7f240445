"""How many messages a user or a group may send: sliding windows in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from bot.config_values import Rate


class RateLimiter:
    """Counts per key over the last `rate.seconds`; the keys unseen for longest are dropped when full."""

    def __init__(
        self, rate: Rate, *, capacity: int = 50_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._capacity = capacity
        self._clock = clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, key: str) -> float:
        """0 when one more is allowed (and counted), else the seconds until it will be."""
        now = self._clock()
        times = self._seen.setdefault(key, deque())
        self._seen.move_to_end(key)
        while times and now - times[0] >= self._rate.seconds:
            times.popleft()
        if len(times) >= self._rate.count:
            return self._rate.seconds - (now - times[0])
        times.append(now)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        return 0.0
