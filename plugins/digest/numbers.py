"""Every number of a digest, from the counts: nothing here reads messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from bot.retrieval import Encoder, group, normalise
from bot.store import Count, Tally
from plugins.digest.counting import BOUNDS, LAST

MOST = 5_000
"""Distinct questions without an answer that are put into groups."""
TOP = 500
"""Distinct questions that are, of those with one."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Questions that say the same: the one that was asked most, how many wordings, how often in all."""

    text: str
    wordings: int
    count: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """What happened from one unix time to another.

    answered: by plugin; escalated: by reason; sources: by the source before it; days: (day, questions,
    escalated).
    before, after: share of questions that were escalated in as much time before the first change of
    knowledge, and after it. median, ninety: seconds, the upper bounds of their classes; waits: seconds until
    people took a talk.
    """

    since: float
    until: float
    questions: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    misses: int = 0
    top: tuple[Cluster, ...] = ()
    unanswered: tuple[Cluster, ...] = ()
    changed: tuple[str, ...] = ()
    escalated: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    days: tuple[tuple[date, int, int], ...] = ()
    before: float | None = None
    after: float | None = None
    up: int = 0
    down: int = 0
    mean: float | None = None
    median: str = ""
    ninety: str = ""
    taken: int = 0
    waits: float | None = None
    closed: dict[str, int] = field(default_factory=dict)

    @property
    def escalations(self) -> int:
        """Talks that were handed over."""
        return sum(self.escalated.values())

    @property
    def rate(self) -> float | None:
        """Escalations by question; None where nothing was asked."""
        return self.escalations / self.questions if self.questions else None


async def collect(
    tally: Tally,
    since: float,
    until: float,
    *,
    zone: str,
    chats: Sequence[str] | None = None,
    encoder: Encoder | None = None,
    subject: str | None = None,
    lists: bool = True,
) -> Numbers:
    """All of them; chats: None is all. Without an encoder no questions are put into groups.

    subject: of texts, sources and changes only what has to do with it. lists: of questions, which cost most.
    Raises StoreError.
    """
    about = normalise(subject) if subject else ""

    async def sums(measure: str, *, most: int | None = None, where: bool = True) -> list[Count]:
        return await tally.sums(measure, since, until, chats=chats if where else None, most=most)

    asked, seconds = await sums("question"), await sums("seconds")
    escalated, taken = await sums("escalated"), await sums("taken")
    votes = {one.label: one.count for one in await sums("vote")}
    changed = [one.label for one in await sums("changed", where=False) if about in normalise(one.label)]
    questions = sum(one.count for one in asked)
    before, after = await _around_change(tally, since, until, chats, bool(changed))
    took, waited = sum(one.count for one in taken), sum(one.total for one in taken)
    return Numbers(
        since,
        until,
        questions=questions,
        answered={one.label: one.count for one in asked if one.label},
        misses=sum(one.count for one in asked if not one.label),
        top=await _clusters(await sums("text", most=TOP), encoder, about) if lists else (),
        unanswered=await _clusters(await sums("miss", most=MOST), encoder, about) if lists else (),
        changed=tuple(changed),
        escalated={one.label: one.count for one in escalated},
        sources={
            one.label: one.count for one in await sums("escalated_source") if about in normalise(one.label)
        },
        days=await _days(tally, since, until, chats, ZoneInfo(zone)),
        before=before,
        after=after,
        up=votes.get("up", 0),
        down=votes.get("down", 0),
        mean=sum(one.total for one in asked) / questions if questions else None,
        median=_share_of(seconds, 0.5),
        ninety=_share_of(seconds, 0.9),
        taken=took,
        waits=waited / took if took else None,
        closed={one.label: one.count for one in await sums("closed")},
    )


async def _clusters(counts: Sequence[Count], encoder: Encoder | None, about: str) -> tuple[Cluster, ...]:
    counts = [one for one in counts if one.count > 0 and about in one.label]
    if encoder is None:
        return tuple(Cluster(one.label, 1, one.count) for one in counts)
    groups = await asyncio.to_thread(group, [one.label for one in counts], encoder)
    found = [
        Cluster(counts[places[0]].label, len(places), sum(counts[place].count for place in places))
        for places in groups
    ]
    return tuple(sorted(found, key=lambda one: (-one.count, one.text)))


async def _days(
    tally: Tally, since: float, until: float, chats: Sequence[str] | None, zone: ZoneInfo
) -> tuple[tuple[date, int, int], ...]:
    asked, escalated = Counter[date](), Counter[date]()
    for measure, counter in (("question", asked), ("escalated", escalated)):
        for at, count in await tally.times(measure, since, until, chats=chats):
            counter[datetime.fromtimestamp(at, zone).date()] += count
    return tuple((day, asked[day], escalated[day]) for day in sorted(asked.keys() | escalated.keys()))


async def _around_change(
    tally: Tally, since: float, until: float, chats: Sequence[str] | None, changed: bool
) -> tuple[float | None, float | None]:
    """The escalation rate before the first change of knowledge, as long as there is after it, and after."""
    times = await tally.times("changed", since, until) if changed else []
    if not times:
        return None, None
    at = times[0][0]
    return await _rate(tally, 2 * at - until, at, chats), await _rate(tally, at, until, chats)


async def _rate(tally: Tally, since: float, until: float, chats: Sequence[str] | None) -> float | None:
    asked = sum(one.count for one in await tally.sums("question", since, until, chats=chats))
    escalated = sum(one.count for one in await tally.sums("escalated", since, until, chats=chats))
    return escalated / asked if asked else None


def _share_of(seconds: Sequence[Count], share: float) -> str:
    """The upper bound of the class in which a share of all response times ends; "" where there are none."""
    counts = {one.label: one.count for one in seconds}
    whole, reached = sum(counts.values()), 0
    for bound in (*(f"{bound:g}" for bound in BOUNDS), LAST):
        reached += counts.get(bound, 0)
        if whole and reached >= share * whole:
            return bound
    return ""
