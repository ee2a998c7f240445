"""Ranking by fused scores and one calibrated confidence; the constants are fitted, not chosen.

Scores are fused, never ranks: ranks forget how bad the best is. All features are shares, cosines or
differences of them, so that they mean the same over forty entries and over forty thousand.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from bot.retrieval.lexical import Floats, QueryTerms
from bot.retrieval.snapshot import Snapshot
from bot.retrieval.text import is_cjk
from bot.retrieval.vectors import Positions

RANKING = {
    "faq": ("centroid", "nearest", "lexical", "coverage"),
    "knowledge": ("bm25", "unit_coverage", "nearest", "lexical"),
}
"""Features whose weighted sum orders the entries."""
CONFIDENCE = {
    "faq": (
        "score",
        "lead",
        "contrast",
        "nearest",
        "similarity",
        "lexical",
        "unit_coverage",
        "precision",
        "cohesion",
    ),
    "knowledge": ("score", "margin", "coverage", "unit_coverage", "nearest", "unknown"),
}
"""Features of an entry among its rivals from which its confidence comes."""
_RIVALS = 5
_CROWD = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights for one kind of entries and one script, in the order of RANKING and CONFIDENCE.

    `strangers`: mean score and mean nearness of entries that are not meant, for indexes with few rivals.
    `cohesion`: a usual one, for indexes in which no entry has similar questions.
    `threshold`: the confidence from which at most a tenth of what has no answer would be answered.
    """

    ranking: Floats
    confidence: Floats
    bias: float
    strangers: tuple[float, float]
    cohesion: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Constants:
    """What `constants.json` says about one kind of index."""

    cjk: Calibration
    latin: Calibration

    def of(self, normalised: str) -> Calibration:
        """The calibration of a query's script."""
        return self.cjk if is_cjk(normalised) else self.latin


@dataclass(frozen=True, slots=True)
class Ranked:
    """An entry (its position), its best unit (its row), fused score and confidence."""

    position: int
    row: int
    score: float
    confidence: float


@functools.cache
def load_constants(kind: str) -> Constants:
    """The fitted constants of `faq` or `knowledge`."""
    text = resources.files("bot.retrieval").joinpath("constants.json").read_text("utf-8")
    part = json.loads(text)[kind]
    return Constants(calibration(kind, part["cjk"]), calibration(kind, part["latin"]))


def calibration(kind: str, part: Mapping[str, Any]) -> Calibration:
    """Weights by name, as `constants.json` has them, put in order."""
    return Calibration(
        np.asarray([part["ranking"][name] for name in RANKING[kind]], np.float32),
        np.asarray([part["confidence"][name] for name in CONFIDENCE[kind]], np.float32),
        float(part["bias"]),
        (float(part["strangers"]["score"]), float(part["strangers"]["nearness"])),
        float(part["cohesion"]),
        float(part["threshold"]),
    )


class Scores:
    """Features of one query against the candidate entries of a snapshot, each an array [candidates]."""

    def __init__(self, snapshot: Snapshot, normalised: str, vector: Floats) -> None:
        self.snapshot = snapshot
        self.query: QueryTerms = snapshot.terms.query(normalised)
        space = snapshot.space
        mapped = space.project(vector) if space is not None else None
        cosine, covered = snapshot.terms.match(self.query)
        whole = snapshot.documents
        bm25 = whole.bm25(whole.query(normalised)) if whole is not None else None
        if bm25 is None:
            self.positions = snapshot.candidates(mapped, cosine)
        else:
            self.positions = snapshot.candidates(mapped, cosine, bm25[snapshot.owner])
        self.rows, self.begins = snapshot.rows_of(self.positions)
        self._cosine, self._covered = cosine[self.rows], covered[self.rows]
        if space is not None and mapped is not None:
            self._similar = space.similarities(mapped, snapshot.vectors, self.rows)
        else:
            self._similar = np.zeros(len(self.rows), np.float32)
        self._vector = vector
        self.features = {
            "nearest": np.maximum.reduceat(self._similar, self.begins),
            "lexical": np.maximum.reduceat(self._cosine, self.begins),
            "unit_coverage": np.maximum.reduceat(self._covered, self.begins),
            "coverage": snapshot.terms.entry_coverage(self.query)[self.positions],
        }
        if bm25 is not None:
            self.features["bm25"] = bm25[self.positions]
        else:
            sums = np.add.reduceat(self._similar, self.begins)
            spreads = space.spreads[self.positions] if space is not None else np.float32(1)
            self.features["centroid"] = sums / spreads

    def fused(self, ranking: Floats) -> Floats:
        """The weighted sum that orders the candidates."""
        names = RANKING[self.snapshot.kind]
        return np.stack([self.features[name] for name in names], axis=1) @ ranking

    def runs(self, chosen: Positions) -> list[slice]:
        """Where the units of these candidates stand in `rows`."""
        ends = np.append(self.begins[1:], len(self.rows))
        return [slice(int(self.begins[i]), int(ends[i])) for i in chosen]

    def best_rows(self, chosen: Positions) -> list[int]:
        """The unit of each of these candidates that is most like the query."""
        mixed = self._similar + self._cosine
        return [int(self.rows[run][np.argmax(mixed[run])]) for run in self.runs(chosen)]

    @property
    def cohesion(self) -> float | None:
        """That of the space, None while there is none."""
        return self.snapshot.space.cohesion if self.snapshot.space is not None else None

    def confidence(
        self, scores: Floats, chosen: Positions, strangers: tuple[float, float], cohesion: float
    ) -> Floats:
        """CONFIDENCE features [chosen, f]; `chosen` begins with the best of all candidates by `scores`."""
        kind = self.snapshot.kind
        values = {name: array[chosen] for name, array in self.features.items()}
        values["score"] = scores[chosen]
        values["margin"] = scores[chosen] - self._others(scores, chosen, 1, strangers[0])
        values["unknown"] = np.full(len(chosen), self.query.unknown)
        if kind == "faq":
            values["lead"] = scores[chosen] - self._others(scores, chosen, _RIVALS, strangers[0])
            near = self.features["centroid"]
            values["contrast"] = near[chosen] - self._others(near, chosen, _CROWD, strangers[1])
            values["similarity"], values["precision"] = self._details(chosen)
            known = self.cohesion
            values["cohesion"] = np.full(len(chosen), cohesion if known is None else known)
        return np.stack([values[name] for name in CONFIDENCE[kind]], axis=1)

    def _others(self, values: Floats, chosen: Positions, count: int, stranger: float) -> Floats:
        """Mean of the `count` highest values besides each chosen one; strangers fill up where some lack."""
        order = np.argsort(-values, kind="stable")[: count + 1]
        means = []
        for i in chosen:
            others = values[order[order != i][:count]]
            means.append((float(others.sum()) + stranger * (count - len(others))) / count)
        return np.asarray(means, np.float32)

    def _details(self, chosen: Positions) -> tuple[Floats, Floats]:
        """Best plain cosine of each chosen entry, and the share of a unit's mass that the query covers."""
        similarity, precision = [], []
        masses, mass = self.snapshot.terms.masses, np.float32(self.query.mass)
        for run in self.runs(chosen):
            rows = self.rows[run]
            similarity.append(self.snapshot.vectors.dot(rows, self._vector).max())
            precision.append(np.minimum(1, self._covered[run] * mass / np.maximum(masses[rows], 1e-6)).max())
        return np.asarray(similarity, np.float32), np.asarray(precision, np.float32)


def rank(snapshot: Snapshot, normalised: str, vector: Floats, constants: Constants, k: int) -> list[Ranked]:
    """The `k` best entries, confidence falling; the script of the query chooses the calibration."""
    chosen_by = constants.of(normalised)
    scores = Scores(snapshot, normalised, vector)
    fused = scores.fused(chosen_by.ranking)
    order = np.argsort(-fused, kind="stable")[:k]
    features = scores.confidence(fused, order, chosen_by.strangers, chosen_by.cohesion)
    logits = features @ chosen_by.confidence + chosen_by.bias
    chances = np.minimum.accumulate(1 / (1 + np.exp(-np.clip(logits, -30, 30))))
    return [
        Ranked(int(scores.positions[i]), row, float(fused[i]), float(chance))
        for i, row, chance in zip(order, scores.best_rows(order), chances, strict=True)
    ]
