"""How much a key may ask of the model: requests and tokens a minute, in buckets that fill up steadily."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from model.http.errors import too_many
from model.http.keys import Key


class Bucket:
    """Holds what may be taken within a minute, and fills up at that rate; it may be overdrawn."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled = clock()

    def wait(self, amount: float) -> float:
        """Seconds until so much can be taken; 0 when it can be now."""
        now = self._clock()
        self._level = min(self._level + (now - self._filled) * self.per_minute / 60, self.per_minute)
        self._filled = now
        return max(amount - self._level, 0.0) * 60 / self.per_minute

    def take(self, amount: float) -> None:
        """Take so much; less than nothing gives back."""
        self._level = min(self._level - amount, self.per_minute)


@dataclass(slots=True)
class Charge:
    """Tokens that were reserved for a request; `settle` leaves those that it used."""

    bucket: Bucket | None
    reserved: int

    def settle(self, used: int) -> None:
        """Correct the reservation, once."""
        if self.bucket is not None:
            self.bucket.take(used - self.reserved)
            self.bucket = None


class Limits:
    """The buckets of all keys."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, key: Key | None) -> None:
        """Count a request. Raises ApiError where there were too many."""
        bucket = self._bucket(key, "requests", key.requests_per_minute if key else None)
        if bucket is not None:
            _take(bucket, 1, "requests")

    def reserve(self, key: Key | None, tokens: int) -> Charge:
        """Set tokens aside, as if all of them were used. Raises ApiError where there are too few.

        Who may have fewer a minute than a request asks for gets it when the bucket is full.
        """
        bucket = self._bucket(key, "tokens", key.tokens_per_minute if key else None)
        if bucket is None:
            return Charge(None, 0)
        tokens = min(tokens, bucket.per_minute)
        _take(bucket, tokens, "tokens")
        return Charge(bucket, tokens)

    def _bucket(self, key: Key | None, kind: str, per_minute: int | None) -> Bucket | None:
        """The bucket of a key, a new one where its limit is another than before."""
        if key is None or per_minute is None:
            return None
        place = key.name, kind
        bucket = self._buckets.get(place)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = self._buckets[place] = Bucket(per_minute, self._clock)
        return bucket


def _take(bucket: Bucket, amount: int, kind: str) -> None:
    wait = bucket.wait(amount)
    if wait > 0:
        message = f"the limit of this key is reached: {bucket.per_minute} {kind} a minute"
        raise too_many(message, wait, kind=kind, code="rate_limit_exceeded")
    bucket.take(amount)
