"""A digest's numbers in words: CommonMark, the same for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from bot import Catalogue
from plugins.digest.base import Digest
from plugins.digest.numbers import Cluster, Numbers

LISTED = 10
"""Lines of a list."""
_CUT = 80


def render(
    digest: Digest, numbers: Numbers, catalogue: Catalogue, *, late: bool = False, summary: str = ""
) -> str:
    """The whole text; late: it was due while nobody could send it."""
    blocks = list(_blocks(digest, numbers, Words(catalogue, digest)))
    head = Words(catalogue, digest).title(numbers, late=late)
    return "\n\n".join(filter(None, [head, summary, *blocks]))


class Words:
    """The catalogue's texts of digests, in one digest's language and time zone."""

    def __init__(self, catalogue: Catalogue, digest: Digest) -> None:
        self._catalogue = catalogue
        self._digest = digest
        self._zone = ZoneInfo(digest.timezone)

    def text(self, key: str, **fields: object) -> str:
        """One of them."""
        return self._catalogue.text(f"digest_{key}", self._digest.language, **fields)

    def time(self, at: float) -> str:
        """A unix time on the clocks there."""
        return f"{datetime.fromtimestamp(at, self._zone):%m-%d %H:%M}"

    def title(self, numbers: Numbers, *, late: bool) -> str:
        """What it is, and of which time."""
        mark = f"{self.text('late')} " if late else ""
        name = self._digest.subject or self.text("title")
        return f"# {mark}{name} {self.time(numbers.since)} – {self.time(numbers.until)}"

    def list(self, heading: str, lines: list[str]) -> str:
        """A heading with a list, the rest of a long one counted; nothing without lines."""
        if not lines:
            return ""
        more = [self.text("more", count=len(lines) - LISTED)] if len(lines) > LISTED else []
        return "\n".join([f"## {heading}", "", *(f"- {line}" for line in [*lines[:LISTED], *more])])


def facts(numbers: Numbers, words: Words) -> list[str]:
    """The plain numbers, a line each."""
    lines = [words.text("questions", count=numbers.questions)]
    if numbers.questions:
        faq = numbers.answered.get("faq", 0)
        lines.append(words.text("answered", count=sum(numbers.answered.values()), faq=faq))
        lines.append(
            words.text("misses", count=numbers.misses, share=percent(numbers.misses / numbers.questions))
        )
    if numbers.escalations:
        rate = percent(numbers.rate) if numbers.rate is not None else "–"
        lines.append(words.text("escalations", count=numbers.escalations, rate=rate))
    if numbers.before is not None and numbers.after is not None:
        lines.append(
            words.text("around_change", before=percent(numbers.before), after=percent(numbers.after))
        )
    if numbers.up or numbers.down:
        lines.append(words.text("votes", up=numbers.up, down=numbers.down))
    if numbers.mean is not None:
        lines.append(
            words.text("seconds", mean=f"{numbers.mean:.1f}", median=numbers.median, ninety=numbers.ninety)
        )
    if numbers.waits is not None:
        lines.append(words.text("waits", count=numbers.taken, minutes=f"{numbers.waits / 60:.1f}"))
    return lines


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f}%"


def _blocks(digest: Digest, numbers: Numbers, words: Words) -> Iterator[str]:
    if not digest.subject:
        yield "\n".join(f"- {line}" for line in facts(numbers, words))
    yield words.list(words.text("changed_heading"), [_change(name, words) for name in numbers.changed])
    yield words.list(words.text("top_heading"), [_cluster(one, words) for one in numbers.top])
    yield words.list(words.text("unanswered_heading"), [_cluster(one, words) for one in numbers.unanswered])
    reasons = [
        words.text("of_reason", reason=words.text(f"reason_{reason}"), count=count)
        for reason, count in numbers.escalated.items()
    ]
    if not digest.subject:
        yield words.list(words.text("reasons_heading"), reasons)
    sources = [
        words.text("of_source", source=_plain(name), count=count)
        for name, count in numbers.sources.items()
        if name
    ]
    yield words.list(words.text("sources_heading"), sources)
    if len(numbers.days) > 1 and not digest.subject:
        days = [
            words.text("of_day", day=f"{day:%m-%d}", questions=asked, escalated=escalated)
            for day, asked, escalated in numbers.days
        ]
        yield words.list(words.text("days_heading"), days)


def _cluster(one: Cluster, words: Words) -> str:
    more = words.text("wordings", count=one.wordings) if one.wordings > 1 else ""
    return words.text("cluster", text=_plain(one.text), count=one.count) + more


def _change(name: str, words: Words) -> str:
    kind = {"+": "new", "~": "changed", "-": "gone"}.get(name[:1])
    return words.text(kind, name=_plain(name[1:])) if kind else _plain(name)


def _plain(text: str) -> str:
    """Somebody's words in one line that no mark-up hides in."""
    text = " ".join(text.split())
    text = text if len(text) <= _CUT else f"{text[: _CUT - 1]}…"
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+-.!|~" else char for char in text)
