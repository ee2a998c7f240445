"""One state of an index: entries, their text units, vectors and term index; readers hold it while writers swap it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bot.retrieval.cache import content_key
from bot.retrieval.entry import Entry
from bot.retrieval.lexical import Hashes, LexicalIndex, QueryTerms, hash_terms
from bot.retrieval.text import exact_key, is_cjk, normalise, sentences

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Positions = NDArray[np.int64]

SCAN_ALL = 4_096
"""Up to this many units every vector is compared; above, a projection picks candidates first."""
_COARSE_DIM = 64
_COARSE_UNITS = 256
_LEXICAL_UNITS = 128
_SAMPLE = 16_384
_CHUNK_CJK = 120
_CHUNK_LATIN = 320
_MAX_UNIT = 2_000


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of an entry that is encoded and matched: a question, or some sentences of a passage."""

    text: str
    key: bytes
    terms: Hashes


def make_units(entry: Entry, kind: str) -> list[Unit]:
    """The units of one entry: its texts, or chunks of whole sentences of them."""
    pieces = list(entry.texts) if kind == "faq" else [part for text in entry.texts for part in chunks(text)]
    units = []
    for piece in pieces or [""]:
        normalised = normalise(piece)[:_MAX_UNIT]
        units.append(Unit(normalised, content_key(normalised), hash_terms(normalised)))
    return units


def chunks(text: str) -> list[str]:
    """Whole sentences joined up to about 120 CJK or 320 Latin characters."""
    limit = _CHUNK_CJK if is_cjk(text) else _CHUNK_LATIN
    parts: list[str] = []
    current = ""
    for sentence in sentences(text):
        while len(sentence) > 2 * limit:
            if current:
                parts.append(current)
                current = ""
            parts.append(sentence[:limit])
            sentence = sentence[limit:]
        if current and len(current) + len(sentence) > limit:
            parts.append(current)
            current = sentence
        else:
            current = f"{current} {sentence}" if current else sentence
    return [*parts, current] if current else parts


@dataclass(slots=True)
class Snapshot:
    """Arrays over units (rows) that are grouped by entry: entry e owns rows starts[e]:starts[e+1]."""

    kind: str
    entries: list[Entry]
    units: list[Unit]
    starts: Positions
    vectors: Halves
    ready: NDArray[np.bool_]
    exact: dict[str, tuple[int, str]]
    positions: dict[str, int]
    terms: LexicalIndex
    documents: LexicalIndex | None
    owner: NDArray[np.int32]
    full: Floats | None = None
    basis: Floats | None = None
    coarse: Floats | None = None
    mean: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def build(cls, kind: str, entries: Sequence[Entry], units: Sequence[list[Unit]], dim: int) -> Snapshot:
        """Everything but the vectors, which are rows of zeros that are not `ready`."""
        counts = np.fromiter(map(len, units), np.int64, len(units))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        owner = np.repeat(np.arange(len(entries), dtype=np.int32), counts)
        flat = [unit for group in units for unit in group]
        exact: dict[str, tuple[int, str]] = {}
        for position, entry in enumerate(entries if kind == "faq" else ()):
            for text in entry.texts:
                key = exact_key(text)
                if key:
                    exact.setdefault(key, (position, text))
        documents = None
        if kind != "faq":
            documents = LexicalIndex(
                [
                    np.concatenate([hash_terms(normalise(entry.title)), *(unit.terms for unit in group)])
                    for entry, group in zip(entries, units, strict=True)
                ]
            )
        return cls(
            kind=kind,
            entries=list(entries),
            units=flat,
            starts=starts,
            vectors=np.zeros((len(flat), dim), np.float16),
            ready=np.zeros(len(flat), np.bool_),
            exact=exact,
            positions={entry.id: position for position, entry in enumerate(entries)},
            terms=LexicalIndex([unit.terms for unit in flat], owner),
            documents=documents,
            owner=owner,
        )

    def finish(self) -> None:
        """Once all vectors stand: a float32 copy of a small set, a projection of a large one."""
        if len(self.vectors) <= SCAN_ALL:
            self.full = self.vectors.astype(np.float32)
            return
        step = max(1, len(self.vectors) // _SAMPLE)
        sample = self.vectors[::step].astype(np.float32)
        _, axes = np.linalg.eigh(sample.T @ sample)
        self.basis = np.ascontiguousarray(axes[:, -_COARSE_DIM:])
        self.coarse = np.empty((len(self.vectors), self.basis.shape[1]), np.float32)
        for start in range(0, len(self.vectors), _SAMPLE):
            self.coarse[start : start + _SAMPLE] = (
                self.vectors[start : start + _SAMPLE].astype(np.float32) @ self.basis
            )

    def rows_of(self, candidates: Positions) -> tuple[Positions, Positions]:
        """Rows of the units of these entries, and where each entry's run of rows begins."""
        first = self.starts[candidates]
        counts = self.starts[candidates + 1] - first
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)[:-1]])
        rows = np.repeat(first - begins, counts) + np.arange(int(counts.sum()))
        return rows, begins

    def similarities(self, vector: Floats, rows: Positions) -> Floats:
        """Cosines of the query with these units; 0 where a unit is not encoded yet."""
        if self.full is not None and len(rows) == len(self.full):
            return self.full @ vector
        found: Floats = self.vectors[rows].astype(np.float32) @ vector
        return found

    def candidates(self, vector: Floats, query: QueryTerms) -> Positions:
        """Entries worth a closer look: all of a small set, else the best by projection and by terms."""
        if len(self.units) <= SCAN_ALL:
            return np.arange(len(self.entries), dtype=np.int64)
        lexical = self.terms.cosine(query)
        chosen = [_top(lexical, _LEXICAL_UNITS)]
        if self.documents is not None:
            documents = self.documents.bm25(query)
            chosen.append(self.starts[_top(documents, _LEXICAL_UNITS)])
        if self.coarse is not None and self.basis is not None:
            chosen.append(_top(self.coarse @ (vector @ self.basis), _COARSE_UNITS))
        return np.unique(self.owner[np.concatenate(chosen)]).astype(np.int64)


def _top(scores: Floats, count: int) -> Positions:
    if len(scores) <= count:
        return np.arange(len(scores), dtype=np.int64)
    return np.argpartition(scores, -count)[-count:]
