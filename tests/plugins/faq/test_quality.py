"""How well the sample FAQ finds the entry of questions that nobody wrote it for.

The bounds lie a little below what was reached when they were written; they guard against a change of
retrieval, of its constants or of the samples that makes answers worse.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot.retrieval import Encoder, Hit, Index
from plugins.faq.files import read_file
from plugins.faq.plugin import near_misses

ROOT = Path(__file__).parents[3]
Found = list[tuple[str | None, list[Hit]]]


@pytest.fixture(scope="module")
def index(encoder: Encoder) -> Index:
    filled = Index("faq", encoder=encoder)
    files = [ROOT / f"plugins/faq/sample/faq.{language}.yaml" for language in ("zh", "en")]
    filled.replace(record.entry for file in files for record in read_file(file))
    return filled


def search_all(index: Index, language: str) -> tuple[Found, Found]:
    """(expected id, hits) of the held-out questions, those that have an answer and the others."""
    file = ROOT / f"tests/data/faq_{language}_heldout.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    found: Found = [(row["expected"], index.search(row["query"], 5)) for row in rows]
    return [item for item in found if item[0]], [item for item in found if not item[0]]


def share(found: Found, test: object) -> float:
    assert callable(test)
    return sum(bool(test(expected, hits)) for expected, hits in found) / len(found)


@pytest.mark.parametrize(("language", "first", "among_three"), [("zh", 0.85, 0.93), ("en", 0.7, 0.9)])
def test_the_right_entry_is_found(index: Index, language: str, first: float, among_three: float) -> None:
    asked, _ = search_all(index, language)
    assert share(asked, lambda expected, hits: hits[0].id == expected) >= first
    assert share(asked, lambda expected, hits: expected in [hit.id for hit in hits[:3]]) >= among_three


@pytest.mark.parametrize(("language", "right"), [("zh", 0.48), ("en", 0.31)])
def test_answers_are_right_or_not_given(index: Index, language: str, right: float) -> None:
    asked, strangers = search_all(index, language)
    least = index.threshold_for({"zh": "运费是多少", "en": "how much is shipping"}[language])
    assert (
        share(asked, lambda expected, hits: hits[0].id == expected and hits[0].confidence >= least) >= right
    )
    assert share(asked, lambda expected, hits: hits[0].id != expected and hits[0].confidence >= least) <= 0.03
    assert share(strangers, lambda _, hits: hits and hits[0].confidence >= least) <= 0.1
    assert share(strangers, lambda _, hits: near_misses(hits, least)) <= 0.3
