"""The search index of a FAQ or of documents: exact look-up, fused ranking, calibrated confidence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bot.retrieval.cache import VectorCache
from bot.retrieval.dense import Encoder, load_encoder
from bot.retrieval.entry import Entry, Hit
from bot.retrieval.scoring import Constants, load_constants, rank
from bot.retrieval.snapshot import Snapshot, Unit, make_units
from bot.retrieval.text import exact_key, normalise_query

Kind = Literal["faq", "knowledge"]
Progress = Callable[[int, int], None]
_BATCH = 256


class Index:
    """Entries that can be searched from any thread while one other thread changes them."""

    def __init__(self, kind: Kind, *, encoder: Encoder | None = None, cache: Path | None = None) -> None:
        """`encoder`: None is the default one; `cache`: folder for vectors, None keeps them in memory only."""
        self.kind: Kind = kind
        self.encoder = encoder if encoder is not None else load_encoder()
        self._cache = (
            VectorCache(cache, self.encoder.name, self.encoder.dim, kind) if cache is not None else None
        )
        self._constants: Constants = load_constants(kind)
        self._writing = threading.Lock()
        self._snapshot = Snapshot.build(kind, [], [], self.encoder.dim)

    @property
    def threshold(self) -> float:
        """The confidence from which an answer is given unless the operator sets another ("auto")."""
        return self._constants.threshold

    def __len__(self) -> int:
        return len(self._snapshot.entries)

    def __contains__(self, id: object) -> bool:
        return id in self._snapshot.positions

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in order."""
        return tuple(self._snapshot.entries)

    def exact(self, text: str) -> Hit | None:
        """The entry that has this very question but for case, script, blanks and punctuation; asks no encoder."""
        return self._exact(self._snapshot, text)

    def _exact(self, snapshot: Snapshot, text: str) -> Hit | None:
        found = snapshot.exact.get(exact_key(text)) if snapshot.exact else None
        if found is None:
            return None
        entry = snapshot.entries[found[0]]
        return Hit(entry.id, 1.0, True, entry, found[1], 1.0)

    def best(self, text: str) -> Hit | None:
        """The first hit of `search`; an exact one costs microseconds."""
        exact = self.exact(text)
        if exact is not None:
            return exact
        hits = self.search(text, 1)
        return hits[0] if hits else None

    def search(self, text: str, k: int = 5) -> list[Hit]:
        """Up to `k` entries, surest first, at most one hit an entry; empty for a text without words."""
        snapshot = self._snapshot
        normalised = normalise_query(text)
        if k <= 0 or not snapshot.entries or not exact_key(normalised):
            return []
        exact = self._exact(snapshot, text)
        vector = self.encoder.encode([normalised])[0]
        ranked = rank(snapshot, normalised, vector, self._constants, k + 1)
        hits = [exact] if exact is not None else []
        for found in ranked:
            entry = snapshot.entries[found.position]
            if exact is None or entry.id != exact.id:
                matched = snapshot.units[found.row].text
                hits.append(Hit(entry.id, found.confidence, False, entry, matched, found.score))
        return hits[:k]

    def replace(self, entries: Iterable[Entry], progress: Progress | None = None) -> None:
        """Make these all the entries there are; only texts not seen before are encoded.

        `progress(done, total)` counts texts. The old entries answer until the new state stands; where there are
        none, the new ones answer by their terms and by what is encoded so far. A later entry with the same id wins.
        """
        with self._writing:
            self._build(list({entry.id: entry for entry in entries}.values()), progress)

    def upsert(self, entries: Iterable[Entry]) -> None:
        """Add entries, or change those whose ids are known."""
        with self._writing:
            merged = {entry.id: entry for entry in self._snapshot.entries}
            merged.update((entry.id, entry) for entry in entries)
            self._build(list(merged.values()), None)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget entries; unknown ids are ignored."""
        with self._writing:
            gone = set(ids)
            self._build([entry for entry in self._snapshot.entries if entry.id not in gone], None)

    def _build(self, entries: list[Entry], progress: Progress | None) -> None:
        old = self._snapshot
        known = {}
        for position, entry in enumerate(old.entries):
            known[entry] = old.units[old.starts[position] : old.starts[position + 1]]
        units: list[list[Unit]] = [known.get(entry) or make_units(entry, self.kind) for entry in entries]
        fresh = Snapshot.build(self.kind, entries, units, self.encoder.dim)
        self._reuse(old, fresh)
        if not old.entries:
            self._snapshot = fresh
        self._encode(fresh, progress)
        fresh.finish()
        self._snapshot = fresh
        if self._cache is not None:
            self._cache.compact([unit.key for unit in fresh.units], fresh.vectors)

    def _reuse(self, old: Snapshot, fresh: Snapshot) -> None:
        """Take the vectors that stand in the old state or on disk."""
        rows = {unit.key: row for row, unit in enumerate(old.units)}
        keys = [unit.key for unit in fresh.units]
        for row, key in enumerate(keys):
            source = rows.get(key)
            if source is not None and old.ready[source]:
                fresh.vectors[row] = old.vectors[source]
                fresh.ready[row] = True
        missing = np.flatnonzero(~fresh.ready)
        if self._cache is not None and len(missing):
            vectors, found = self._cache.load([keys[row] for row in missing])
            fresh.vectors[missing[found]] = vectors[found]
            fresh.ready[missing[found]] = True

    def _encode(self, fresh: Snapshot, progress: Progress | None) -> None:
        total = len(fresh.units)
        missing = np.flatnonzero(~fresh.ready)
        done = total - len(missing)
        if progress is not None:
            progress(done, total)
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            units: Sequence[Unit] = [fresh.units[row] for row in batch]
            vectors = self.encoder.encode([unit.text for unit in units]).astype(np.float16)
            fresh.vectors[batch] = vectors
            fresh.ready[batch] = True
            if self._cache is not None:
                self._cache.append([unit.key for unit in units], vectors)
            done += len(batch)
            if progress is not None:
                progress(done, total)
