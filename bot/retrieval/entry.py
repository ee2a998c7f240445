"""What is indexed and what a search gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One FAQ entry (texts: the question, then similar ones) or one passage (texts: the passage)."""

    id: str
    texts: tuple[str, ...]
    answer: str
    title: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One entry found for a query: `confidence` 0..1 is the chance that it answers the query."""

    id: str
    confidence: float
    exact: bool
    entry: Entry
    matched: str
    score: float = 0.0

    @property
    def answer(self) -> str:
        return self.entry.answer
