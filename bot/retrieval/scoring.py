"""Ranking by fused scores and one calibrated confidence; the constants are fitted, not chosen."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from bot.retrieval.snapshot import Floats, Positions, Snapshot
from bot.retrieval.text import is_cjk


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights of one kind of entries in one script."""

    fusion: Floats
    bias: float
    confidence: Floats


@dataclass(frozen=True, slots=True)
class Constants:
    """What `constants.json` says about one kind of index."""

    threshold: float
    cjk: Calibration
    latin: Calibration


@dataclass(frozen=True, slots=True)
class Ranked:
    """One entry (its position) with its best unit (its row), fused score and confidence."""

    position: int
    row: int
    score: float
    confidence: float


@functools.cache
def load_constants(kind: str) -> Constants:
    """The fitted constants of `faq` or `knowledge`."""
    data = json.loads(resources.files("bot.retrieval").joinpath("constants.json").read_text("utf-8"))[kind]

    def calibration(name: str) -> Calibration:
        part = data[name]
        return Calibration(
            np.asarray(part["fusion"], np.float32),
            float(part["bias"]),
            np.asarray(part["confidence"], np.float32),
        )

    return Constants(float(data["threshold"]), calibration("cjk"), calibration("latin"))


def rank(snapshot: Snapshot, normalised: str, vector: Floats, constants: Constants, k: int) -> list[Ranked]:
    """The `k` best entries, confidence falling."""
    calibration = constants.cjk if is_cjk(normalised) else constants.latin
    positions, rows, features = entry_features(snapshot, normalised, vector)
    scores = features @ calibration.fusion
    order = np.argsort(-scores, kind="stable")[:k]
    confident = confidence_features(scores[order], features[order])
    logits = confident @ calibration.confidence + calibration.bias
    chances = np.minimum.accumulate(1 / (1 + np.exp(-np.clip(logits, -30, 30))))
    return [
        Ranked(int(positions[i]), int(rows[i]), float(scores[i]), float(chance))
        for i, chance in zip(order, chances, strict=True)
    ]


def entry_features(
    snapshot: Snapshot, normalised: str, vector: Floats
) -> tuple[Positions, Positions, Floats]:
    """Candidate entries, the best unit row of each, and their features [n, f], each about 0..1."""
    query = snapshot.terms.query(normalised)
    positions = snapshot.candidates(vector, query)
    rows, begins = snapshot.rows_of(positions)
    similar = snapshot.similarities(vector, rows)
    dense = np.maximum.reduceat(similar, begins)
    counts = np.diff(np.append(begins, len(rows)))
    centroid = np.add.reduceat(similar, begins) / counts
    cosine = snapshot.terms.cosine(query)[rows]
    coverage = np.maximum.reduceat(snapshot.terms.coverage(query)[rows], begins)
    lexical = np.maximum.reduceat(cosine, begins)
    mixed = similar + cosine
    best = np.asarray([b + np.argmax(mixed[b : b + c]) for b, c in zip(begins, counts, strict=True)])
    if snapshot.documents is not None:
        whole = snapshot.documents.query(normalised)
        centroid = snapshot.documents.bm25(whole)[positions]
    return positions, rows[best], np.stack([dense, centroid, lexical, coverage], axis=1).astype(np.float32)


def confidence_features(scores: NDArray[np.float32], features: Floats) -> Floats:
    """Features of the chance that each ranked entry is the right one: its own, and its lead on the next best."""
    rival = np.full(len(scores), scores[0], np.float32)
    rival[0] = scores[1] if len(scores) > 1 else 0.0
    return np.column_stack([features, scores, scores - rival]).astype(np.float32)
