"""The search index of a FAQ or of documents: exact look-up, fused ranking, calibrated confidence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from bot.retrieval.cache import VectorCache
from bot.retrieval.courtesy import exact_keys, without_courtesy
from bot.retrieval.dense import Encoder, load_encoder
from bot.retrieval.entry import Entry, Hit
from bot.retrieval.scoring import load_constants, rank
from bot.retrieval.snapshot import Snapshot, unit_text
from bot.retrieval.text import has_terms, normalise_query
from bot.retrieval.vectors import quantise

Kind = Literal["faq", "knowledge"]
Progress = Callable[[int, int], None]
_BATCH = 256
_FIRST_FIT = 2_048


class Index:
    """Entries that any number of threads may search while one changes them."""

    def __init__(self, kind: Kind, *, encoder: Encoder | None = None, cache: Path | None = None) -> None:
        """`encoder`: None is the default one; `cache`: a folder for vectors, None keeps them in memory."""
        self.kind: Kind = kind
        self.encoder = encoder if encoder is not None else load_encoder()
        self._cache = VectorCache(cache, self.encoder.name, self.encoder.dim, kind) if cache else None
        self._constants = load_constants(kind)
        self._writing = threading.Lock()
        self._snapshot = Snapshot(kind, [], self.encoder.dim)

    def threshold_for(self, text: str) -> float:
        """The confidence from which a hit of `text` is an answer ("auto"): that of the script of `text`."""
        return self._constants.of(_normalised(text)).threshold

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in order."""
        return tuple(self._snapshot.entries)

    def __len__(self) -> int:
        return len(self._snapshot.entries)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._snapshot.positions

    def exact(self, text: str) -> Hit | None:
        """The entry that has this question, but for case, script, signs and courtesy; asks no encoder."""
        return _exact(self._snapshot, text)

    def best(self, text: str) -> Hit | None:
        """The first hit of `search`; an exact one costs microseconds."""
        exact = self.exact(text)
        if exact is not None:
            return exact
        hits = self.search(text, 1)
        return hits[0] if hits else None

    def search(self, text: str, k: int = 5) -> list[Hit]:
        """Up to `k` entries, surest first; none for a text without words, unless it is an entry's."""
        snapshot = self._snapshot
        normalised = _normalised(text)
        if k <= 0 or not snapshot.entries:
            return []
        exact = _exact(snapshot, text)
        hits = [exact] if exact is not None else []
        if not has_terms(normalised):
            return hits
        vector = self.encoder.encode([normalised])[0]
        for found in rank(snapshot, normalised, vector, self._constants, k + len(hits)):
            entry = snapshot.entries[found.position]
            if exact is None or entry.id != exact.id:
                matched = snapshot.units.texts[found.row]
                hits.append(Hit(entry.id, found.confidence, False, entry, matched, found.score))
        return hits[:k]

    def replace(self, entries: Iterable[Entry], progress: Progress | None = None) -> None:
        """Make these all the entries there are; only texts not seen before are encoded.

        `progress(done, total)` counts texts. The old entries answer until the new state stands; where there
        are none, the new ones answer meanwhile, exact questions at once. Of two entries with one id the
        later wins.
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
        fresh = Snapshot(self.kind, entries, self.encoder.dim, old)
        self._reuse(old, fresh)
        first = not old.entries
        if first:
            self._snapshot = fresh
        self._encode(fresh, progress, fit_early=first)
        fresh.fit()
        self._snapshot = fresh
        if self._cache is not None:
            self._cache.compact(fresh.units.keys, fresh.vectors)

    def _reuse(self, old: Snapshot, fresh: Snapshot) -> None:
        """Take the vectors that stand in the old state or on disk."""
        vectors, known = fresh.vectors, old.vectors
        for row, source, count in fresh.units.taken:
            span = slice(source, source + count)
            vectors.put(slice(row, row + count), known.codes[span], known.scales[span])
        wanted = {fresh.units.keys[row]: int(row) for row in np.flatnonzero(~vectors.ready)}
        if wanted:
            for source, key in enumerate(old.units.keys):
                if key in wanted:
                    vectors.put(
                        slice(wanted[key], wanted[key] + 1), known.codes[source], known.scales[source]
                    )
        if self._cache is not None and not vectors.ready.all():
            self._cache.fill(fresh.units.keys, vectors)

    def _encode(self, fresh: Snapshot, progress: Progress | None, *, fit_early: bool) -> None:
        total = len(fresh.units)
        missing = np.flatnonzero(~fresh.vectors.ready)
        done, next_fit = total - len(missing), _FIRST_FIT
        if progress is not None:
            progress(done, total)
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            texts = [unit_text(fresh.units.texts[row]) for row in batch]
            codes, scales = quantise(self.encoder.encode(texts))
            fresh.vectors.put(batch, codes, scales)
            if self._cache is not None:
                self._cache.append([fresh.units.keys[row] for row in batch], codes, scales)
            done += len(batch)
            if fit_early and start + _BATCH >= next_fit and done < total:
                fresh.fit()
                next_fit *= 4
            if progress is not None:
                progress(done, total)


def _normalised(text: str) -> str:
    return without_courtesy(normalise_query(text))


def _exact(snapshot: Snapshot, text: str) -> Hit | None:
    if not snapshot.exact:
        return None
    row = next((snapshot.exact[key] for key in exact_keys(text) if key in snapshot.exact), None)
    if row is None:
        return None
    entry = snapshot.entries[snapshot.owner[row]]
    return Hit(entry.id, 1.0, True, entry, snapshot.units.texts[row], 1.0)
