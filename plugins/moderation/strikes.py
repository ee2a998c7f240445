"""Users whose messages were blocked lately, and how often."""

from __future__ import annotations

from collections import OrderedDict, deque

_CAPACITY = 50_000


class Strikes:
    """Counts per user in bounded memory; whoever was not counted for longest is forgotten first."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def add(self, user: tuple[str, str], now: float, *, after: int, within: float) -> bool:
        """Count one; whether it is the last of `after` within so many seconds, and counting begins anew."""
        times = self._times.setdefault(user, deque())
        self._times.move_to_end(user)
        times.append(now)
        while now - times[0] >= within:
            times.popleft()
        if len(times) >= after:
            del self._times[user]
            return True
        while len(self._times) > _CAPACITY:
            self._times.popitem(last=False)
        return False
