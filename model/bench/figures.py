"""What a run yields: the work of a step, the least time that it takes, and figures with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal, TypeAlias

from model.bench.probe import Limits

Unit: TypeAlias = Literal["tok/s", "s", "ms", "GB", "GB/s", "GMAC/s"]
RATES = ("tok/s", "GB/s", "GMAC/s")
"""Units in which more is better."""


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes that have to be read, and products of integers that have to be added up."""

    nbytes: float
    macs: float

    def seconds(self, limits: Limits) -> float:
        """What it takes at least: reading and computing go on at once."""
        return max(self.nbytes / limits.bandwidth, self.macs / limits.macs)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model reads and multiplies: in a layer, in the head, and for a token in a layer's KV cache.

    The products of attention are not counted: they are floats, and few.
    """

    layers: int
    layer_bytes: int
    layer_macs: int
    head_bytes: int
    head_macs: int
    kv_bytes: int

    def step(self, batch: int, length: float) -> Work:
        """One token for each of `batch` sequences of `length` tokens."""
        kv = batch * length * self.layers * self.kv_bytes
        read = self.layers * self.layer_bytes + self.head_bytes + kv
        return Work(read, batch * (self.layers * self.layer_macs + self.head_macs))

    def prefill(self, tokens: int) -> Work:
        """A prompt through all layers, none of it through the head."""
        return Work(self.layers * self.layer_bytes, tokens * self.layers * self.layer_macs)

    def with_layers(self, layers: int) -> Costs:
        """Of the same model with so many layers."""
        return replace(self, layers=layers)


@dataclass(frozen=True, slots=True)
class Reached:
    """How near one repetition came to what the probes before and after it allow: fractions of 1.

    of_bandwidth and of_dot: had it only to read, or only to multiply; of_limit: both at once, work by work.
    before, after: of the probes; macs: products a second that it computed.
    """

    before: Limits
    after: Limits
    of_bandwidth: float
    of_dot: float
    of_limit: float
    macs: float

    @classmethod
    def between(cls, before: Limits, after: Limits, works: Sequence[Work], seconds: float) -> Reached:
        """By the mean of both probes."""
        mean = before.mean(after)
        read = sum(work.nbytes for work in works) / seconds
        macs = sum(work.macs for work in works) / seconds
        least = sum(work.seconds(mean) for work in works)
        return cls(before, after, read / mean.bandwidth, macs / mean.macs, least / seconds, macs)


@dataclass(slots=True)
class Figure:
    """One line of the table: a value for every repetition, and what it reached where a limit is known.

    intensity: products for each byte read, of what has a limit.
    """

    subject: str
    name: str
    unit: Unit
    values: list[float] = field(default_factory=list)
    reached: list[Reached] = field(default_factory=list)
    intensity: float = 0.0

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def limit(self) -> str:
        """What bounds it; empty where that is not known."""
        if not self.reached:
            return ""
        reads = median(reached.of_bandwidth for reached in self.reached)
        return "bandwidth" if reads >= median(reached.of_dot for reached in self.reached) else "dot peak"

    @property
    def of_limit(self) -> float | None:
        """The median of what it reached; None where no limit is known."""
        return median(reached.of_limit for reached in self.reached) if self.reached else None

    @property
    def bandwidth(self) -> tuple[float, float] | None:
        """Medians of the probes before and after it, in bytes a second."""
        if not self.reached:
            return None
        before = median(one.before.bandwidth for one in self.reached)
        return before, median(one.after.bandwidth for one in self.reached)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, every repetition included."""
        summary = {"min": min(self.values), "median": self.middle, "max": max(self.values)}
        return {**asdict(self), **summary, "limit": self.limit, "of_limit": self.of_limit}


def ratio(ours: Figure, theirs: Figure) -> float:
    """How many times as fast ours is: the median over repetitions that came one right after the other."""
    pairs = zip(ours.values, theirs.values, strict=True)
    faster = ours.unit in RATES
    return median(mine / other if faster else other / mine for mine, other in pairs)
