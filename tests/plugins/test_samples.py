"""The sample FAQ and documents: well formed, free of doubles, of one mind."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.catalogue import language_of
from bot.retrieval.text import exact_key, normalise

ROOT = Path(__file__).parents[2]
FAQ = {language: ROOT / f"plugins/faq/sample/faq.{language}.yaml" for language in ("zh", "en")}
DOCUMENTS = sorted((ROOT / "plugins/knowledge/sample").iterdir())
HELD_OUT = {language: ROOT / f"tests/data/faq_{language}_heldout.jsonl" for language in ("zh", "en")}
SIMILAR = {"zh": range(5, 9), "en": range(4, 7)}
LONGEST_ANSWER = {"zh": 120, "en": 220}


def entries(language: str) -> list[dict[str, Any]]:
    loaded = yaml.safe_load(FAQ[language].read_text("utf-8"))
    assert isinstance(loaded, list)
    return loaded


def questions(entry: dict[str, Any]) -> list[str]:
    return [entry["question"], *entry["similar"]]


def all_questions() -> list[str]:
    return [text for language in FAQ for entry in entries(language) for text in questions(entry)]


def plain_text(document: Path) -> str:
    text = document.read_text("utf-8")
    if document.suffix == ".html":
        text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)
    return text


@pytest.mark.parametrize(("language", "least"), [("zh", 80), ("en", 40)])
def test_the_faq_is_large_enough_and_its_ids_are_unique(language: str, least: int) -> None:
    assert len(entries(language)) >= least
    ids = Counter(entry["id"] for each in FAQ for entry in entries(each))
    assert max(ids.values()) == 1, ids.most_common(3)


@pytest.mark.parametrize("language", FAQ)
def test_every_faq_entry_has_its_fields(language: str) -> None:
    for entry in entries(language):
        assert set(entry) == {"id", "question", "similar", "answer", "tags"}, entry["id"]
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["id"])
        assert len(entry["similar"]) in SIMILAR[language], entry["id"]
        assert 0 < len(entry["answer"]) <= LONGEST_ANSWER[language], entry["id"]
        texts = [*questions(entry), entry["answer"], *entry["tags"]]
        assert all(isinstance(text, str) and text == text.strip() and text for text in texts), entry["id"]
        assert entry["tags"], entry["id"]


@pytest.mark.parametrize("language", FAQ)
def test_every_question_is_in_the_language_of_its_file(language: str) -> None:
    for entry in entries(language):
        assert {language_of(text) for text in [*questions(entry), entry["answer"]]} == {language}, entry["id"]


def test_no_question_stands_twice_in_either_script() -> None:
    doubled = [key for key, count in Counter(map(exact_key, all_questions())).items() if count > 1]
    assert doubled == []


def test_some_chinese_questions_are_in_traditional_characters() -> None:
    texts = [text for entry in entries("zh") for text in questions(entry)]
    assert sum(normalise(text) != text.lower() for text in texts if text.isalnum()) >= 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_document_is_of_a_readable_size(document: Path) -> None:
    assert document.suffix in {".md", ".txt", ".html"}
    assert 600 <= len(plain_text(document)) <= 2500


def test_the_documents_cover_the_file_kinds_headings_lists_and_tables() -> None:
    assert 5 <= len(DOCUMENTS) <= 7
    assert {document.suffix for document in DOCUMENTS} == {".md", ".txt", ".html"}
    assert {document.name.split(".")[1] for document in DOCUMENTS} == {"zh", "en"}
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        if document.suffix == ".md":
            assert text.startswith("# ")
            assert re.search(r"^## ", text, re.MULTILINE)
            assert re.search(r"^\| --- ", text, re.MULTILINE)
        if document.suffix == ".html":
            assert "<title>" in text
            assert "<h1>" in text
            assert "<table>" in text


def test_names_and_numbers_are_fictional_and_the_same_everywhere() -> None:
    texts = [path.read_text("utf-8") for path in (*FAQ.values(), *DOCUMENTS)]
    found = "\n".join(texts)
    assert set(re.findall(r"\b400-\d{3}-\d{4}\b", found)) == {"400-000-0199"}
    assert all(host.endswith(".example") for host in re.findall(r"(?:@|www\.)([a-z.]+[a-z])", found))


def test_amounts_of_the_english_faq_stand_in_the_chinese_one() -> None:
    chinese = FAQ["zh"].read_text("utf-8")
    for entry in entries("en"):
        for amount in re.findall(r"¥([\d.]+\d|\d)", entry["answer"]):
            assert re.search(rf"(?<!\d){re.escape(amount)} ?元|减 ?{amount}\b", chinese), (
                entry["id"],
                amount,
            )


# -- held-out questions -------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "answered", "refused"), [("zh", 80, 40), ("en", 30, 15)])
def test_held_out_questions_are_not_in_the_faq(language: str, answered: int, refused: int) -> None:
    if not HELD_OUT[language].exists():
        pytest.skip(f"{HELD_OUT[language].name} is not in this checkout")
    rows = [json.loads(line) for line in HELD_OUT[language].read_text("utf-8").splitlines()]
    ids = {entry["id"] for entry in entries(language)}
    known = set(map(exact_key, all_questions()))
    assert {key for row in rows for key in row} == {"query", "expected"}
    assert {row["expected"] for row in rows} - {None} <= ids
    assert not [row["query"] for row in rows if exact_key(row["query"]) in known]
    assert len({exact_key(row["query"]) for row in rows}) == len(rows)
    assert sum(row["expected"] is not None for row in rows) >= answered
    assert sum(row["expected"] is None for row in rows) >= refused
