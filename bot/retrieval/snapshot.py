"""One state of an index; readers hold it while a writer builds and swaps in the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bot.retrieval.cache import content_key
from bot.retrieval.courtesy import exact_keys
from bot.retrieval.entry import Entry
from bot.retrieval.lexical import Floats, Hashes, LexicalIndex, hash_terms
from bot.retrieval.space import SCAN_ALL, Space, top
from bot.retrieval.text import is_cjk, normalise, sentences
from bot.retrieval.vectors import Positions, Vectors

_COARSE_UNITS = 256
_LEXICAL_UNITS = 128
_CHUNK_CJK = 120
_CHUNK_LATIN = 240
_MAX_UNIT = 2_000


def chunks(text: str) -> list[str]:
    """Whole sentences joined up to about 120 CJK or 240 Latin characters; longer ones are cut."""
    limit = _CHUNK_CJK if is_cjk(text) else _CHUNK_LATIN
    parts: list[str] = []
    current = ""
    for sentence in sentences(text):
        for piece in _pieces(sentence, limit):
            if current and len(current) + len(piece) > limit:
                parts.append(current)
                current = piece
            else:
                current = f"{current} {piece}" if current else piece
    return [*parts, current] if current else parts


def _pieces(sentence: str, limit: int) -> list[str]:
    if len(sentence) <= 2 * limit:
        return [sentence]
    return [sentence[start : start + limit] for start in range(0, len(sentence), limit)]


class Units:
    """What is encoded and matched of entries (questions, or some sentences of a passage), in columns."""

    def __init__(self, kind: str, entries: Sequence[Entry], old: Snapshot | None = None) -> None:
        """Entries that stand unchanged in `old` are taken over: `taken` has (row, row in old, rows)."""
        self.texts: list[str] = []
        self.keys: list[bytes] = []
        self.taken: list[tuple[int, int, int]] = []
        rows: list[Hashes] = []
        lengths: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        for run, first in _runs(entries, old):
            if old is not None and first is not None:
                counts.append(self._take(old, first, first + len(run), rows, lengths))
            else:
                fresh = len(rows)
                counts.append(np.asarray([self._add(kind, entry, rows) for entry in run], np.int64))
                lengths.append(np.fromiter(map(len, rows[fresh:]), np.int64))
        self.offsets = _bounds(_joined(lengths))
        self.terms: Hashes = np.concatenate(rows) if rows else np.empty(0, np.uint32)
        self.counts = _joined(counts)

    def _take(
        self, old: Snapshot, first: int, last: int, rows: list[Hashes], lengths: list[NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Take over the units of the entries first:last of `old`; gives the counts of units."""
        units = old.units
        start, end = int(old.starts[first]), int(old.starts[last])
        self.taken.append((len(self.texts), start, end - start))
        self.texts.extend(units.texts[start:end])
        self.keys.extend(units.keys[start:end])
        rows.append(units.terms[units.offsets[start] : units.offsets[end]])
        lengths.append(np.diff(units.offsets[start : end + 1]))
        return units.counts[first:last]

    def _add(self, kind: str, entry: Entry, rows: list[Hashes]) -> int:
        pieces = entry.texts if kind == "faq" else [part for text in entry.texts for part in chunks(text)]
        title = hash_terms(normalise(entry.title)) if kind != "faq" else np.empty(0, np.uint32)
        for piece in pieces or ("",):
            normalised = unit_text(piece)
            self.texts.append(piece)
            self.keys.append(content_key(normalised))
            rows.append(np.concatenate([title, hash_terms(normalised)]))
        return max(len(pieces), 1)

    def __len__(self) -> int:
        return len(self.texts)


def _runs(entries: Sequence[Entry], old: Snapshot | None) -> Iterator[tuple[Sequence[Entry], int | None]]:
    """Cuts into runs that follow each other in `old` (with the first position there) or are new (None)."""
    start, at = 0, None
    for i, entry in enumerate(entries):
        position = old.positions.get(entry.id) if old is not None else None
        if old is not None and position is not None and old.entries[position] != entry:
            position = None
        expected = None if at is None else at + i - start
        if i and position != expected:
            yield entries[start:i], at
            start, at = i, position
        elif not i:
            at = position
    if entries:
        yield entries[start:], at


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def unit_text(piece: str) -> str:
    """What is encoded of a piece of an entry."""
    return normalise(piece[: 2 * _MAX_UNIT])[:_MAX_UNIT]


class Snapshot:
    """Entries, their units (entry e owns rows starts[e]:starts[e+1]), vectors, terms and vector space."""

    def __init__(self, kind: str, entries: Sequence[Entry], dim: int, old: Snapshot | None = None) -> None:
        """Everything but the vectors: their rows are zeros and not ready, and there is no `space` yet."""
        self.kind = kind
        self.entries = list(entries)
        self.positions = {entry.id: position for position, entry in enumerate(self.entries)}
        self.units = Units(kind, self.entries, old)
        self.starts: Positions = _bounds(self.units.counts)
        self.owner = np.repeat(np.arange(len(self.entries), dtype=np.int32), self.units.counts)
        self.terms = LexicalIndex(self.units.terms, self.units.offsets, self.owner)
        self.documents = self._documents() if kind != "faq" else None
        self.exact = self._exact() if kind == "faq" else {}
        self.vectors = Vectors(len(self.units), dim)
        self.space: Space | None = None

    def _documents(self) -> LexicalIndex:
        offsets = self.units.offsets[self.starts]
        return LexicalIndex(self.units.terms, offsets, np.arange(len(self.entries), dtype=np.int32))

    def _exact(self) -> dict[str, int]:
        """Row by exact keys; texts as they are come first, then the first of several."""
        exact: dict[str, int] = {}
        bare: dict[str, int] = {}
        for row, text in enumerate(self.units.texts):
            key, short = exact_keys(text)
            if key:
                exact.setdefault(key, row)
                if short != key:
                    bare.setdefault(short, row)
        return bare | exact

    def fit(self) -> None:
        """Learn the vector space from the rows that are ready; readers see it whole or not at all."""
        if len(self.units):
            self.space = Space.fit(self.vectors, self.starts, similar=self.kind == "faq")

    def rows_of(self, positions: Positions) -> tuple[Positions, Positions]:
        """Rows of the units of these entries, and where the run of each entry begins in them."""
        counts = self.units.counts[positions]
        begins = np.cumsum(counts) - counts
        rows = np.repeat(self.starts[positions] - begins, counts) + np.arange(int(counts.sum()))
        return rows, begins

    def candidates(self, mapped: Floats | None, *scores: Floats) -> Positions:
        """Entries worth a closer look: all of a small set, else the best by projection and these `scores`."""
        if len(self.units) <= SCAN_ALL:
            return np.arange(len(self.entries), dtype=np.int64)
        chosen = [top(each, _LEXICAL_UNITS) for each in scores]
        if self.space is not None and mapped is not None:
            chosen.append(self.space.nearest(mapped, _COARSE_UNITS))
        return np.unique(self.owner[np.concatenate(chosen)]).astype(np.int64)


def _bounds(counts: NDArray[np.int64]) -> Positions:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
