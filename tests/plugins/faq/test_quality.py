"""How well the sample FAQ answers questions that nobody wrote it for.

The bounds are what was reached when they were written, less one question in twenty; they guard against a
change of retrieval, of its constants or of the samples that makes answers worse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.retrieval import Encoder, Index
from plugins.faq.files import read_file
from plugins.faq.plugin import near_misses

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Figures:
    """Parts of the answerable questions: answered rightly, wrongly, or offered; and of the others."""

    right: float
    wrong: float
    offered: float
    answered_strangers: float
    offered_strangers: float


def measure(index: Index, language: str) -> Figures:
    file = ROOT / f"tests/data/faq_{language}_heldout.jsonl"
    if not file.exists():
        pytest.skip(f"{file.name} is not in this checkout")
    counts = dict.fromkeys(("right", "wrong", "offered", "answered_strangers", "offered_strangers"), 0)
    totals = {True: 0, False: 0}
    for row in map(json.loads, file.read_text("utf-8").splitlines()):
        expected = row["expected"]
        totals[expected is not None] += 1
        hits = index.search(row["query"], 5)
        if hits and hits[0].confidence >= index.threshold:
            answered = "answered_strangers" if expected is None else "wrong"
            counts["right" if hits[0].id == expected else answered] += 1
        elif offered := near_misses(hits, index.threshold):
            if expected is None:
                counts["offered_strangers"] += 1
            counts["offered"] += expected in [hit.id for hit in offered]
    parts = {key: count / totals["strangers" not in key] for key, count in counts.items()}
    print(language, {key: round(part, 3) for key, part in parts.items()})
    return Figures(**parts)


@pytest.fixture(scope="module")
def index(encoder: Encoder) -> Index:
    filled = Index("faq", encoder=encoder)
    files = [ROOT / f"plugins/faq/sample/faq.{language}.yaml" for language in ("zh", "en")]
    filled.replace(record.entry for file in files for record in read_file(file))
    return filled


@pytest.mark.parametrize("language", ["zh", "en"])
def test_held_out_questions(index: Index, language: str) -> None:
    measure(index, language)
