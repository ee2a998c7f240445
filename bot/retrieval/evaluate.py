"""Entry point for retrieval judges: wraps the Index that production builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.retrieval.entry import Entry
from bot.retrieval.index import Index, Kind


class Searcher:
    """`search(query, k)` gives (id, confidence) pairs, best first."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        return [(hit.id, hit.confidence) for hit in self.index.search(query, k)]


def to_entry(row: Mapping[str, Any], kind: Kind) -> Entry:
    """An entry of a corpus row: FAQ {id, question, similar, answer} or passage {id, title, text}."""
    if kind == "faq":
        texts = (row["question"], *(row.get("similar") or ()))
        return Entry(str(row["id"]), texts, row.get("answer") or "")
    return Entry(str(row["id"]), (row["text"],), row["text"], title=row.get("title") or "")


def factory(corpus: Sequence[Mapping[str, Any]], kind: Kind) -> Searcher:
    """A searcher over a corpus of `faq` or `knowledge` rows."""
    index = Index(kind)
    index.replace(to_entry(row, kind) for row in corpus)
    return Searcher(index)
