"""Retrieval must stay as good as it was when its constants were fitted; a drop here is a regression."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bot.retrieval.evaluate import factory

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("GLMBOT_TEST_DATA") or ROOT.parent / "shared" / "data") / "retrieval"

TINY: list[dict[str, Any]] = [
    {"id": "fee", "question": "运费是多少？", "similar": ["邮费怎么算", "寄快递要多少钱"], "answer": ""},
    {"id": "return", "question": "怎么退货？", "similar": ["我想退掉买的东西", "如何申请退货"], "answer": ""},
    {"id": "card", "question": "How do I block my card?", "similar": ["My card was stolen"], "answer": ""},
]


def top(searcher: Any, text: str) -> tuple[str, float]:
    found: tuple[str, float] = searcher.search(text, 10)[0]
    return found


def test_judge_gets_ids_and_scores_best_first() -> None:
    searcher = factory(TINY, "faq")
    found = searcher.search("邮费多少钱", 10)
    assert found[0][0] == "fee"
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert top(searcher, "someone stole my card, block it")[0] == "card"
    assert top(searcher, "恐龙为什么灭绝")[1] < top(searcher, "退货怎么申请")[1]


def test_passages_without_title_and_empty_corpus() -> None:
    rows = [{"id": "a", "text": "冰箱温度设为四度。"}, {"id": "b", "title": "保修", "text": "保修三年。"}]
    assert top(factory(rows, "knowledge"), "冰箱温度多少度")[0] == "a"
    assert factory([], "knowledge").search("冰箱", 10) == []


def figures(name: str) -> dict[str, float]:
    """Recall@1, refusal AUC, right answers where a tenth of the others is answered, on half a set."""
    corpus, queries = (
        [json.loads(line) for line in (DATA / name / f"{part}.jsonl").read_text("utf-8").splitlines()]
        for part in ("corpus", "queries")
    )
    searcher = factory(corpus, "faq" if "question" in corpus[0] else "knowledge")
    ours: list[tuple[float, bool]] = []
    others: list[float] = []
    for query in queries[::2]:
        found, score = top(searcher, query["query"])
        if query["kind"] == "answerable":
            ours.append((score, found in query["relevant"]))
        else:
            others.append(score)
    above = sum((score > other) + 0.5 * (score == other) for score, _ in ours for other in others)
    threshold = sorted(others, reverse=True)[len(others) // 10]
    return {
        "recall": sum(right for _, right in ours) / len(ours),
        "auc": above / len(ours) / len(others),
        "correct": sum(right and score > threshold for score, right in ours) / len(ours),
    }


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no retrieval sets in {DATA} (GLMBOT_TEST_DATA)")
@pytest.mark.parametrize(
    ("name", "recall", "auc", "correct"),
    [
        ("faq_en_banking77", 0.82, 0.81, 0.52),
        ("kb_cmrc", 0.975, 0.985, 0.965),
        ("kb_xquad_en", 0.96, 0.94, 0.85),
    ],
)
def test_quality_does_not_fall(name: str, recall: float, auc: float, correct: float) -> None:
    reached = figures(name)
    assert reached["recall"] >= recall, reached
    assert reached["auc"] >= auc, reached
    assert reached["correct"] >= correct, reached
