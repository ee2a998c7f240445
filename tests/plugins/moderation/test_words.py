"""Word files: what a line says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot import ConfigError
from plugins.moderation.words import MAX_WORD, MAX_WORDS, Word, read_words


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "words.txt"


def test_a_line_is_a_word_with_its_action_and_category(file: Path, tmp_path: Path) -> None:
    lines = [
        "\ufeff# 词表",
        "",
        "敏感词",
        "  free money \t mask",
        "赌 博\tblock pinyin\t违法 赌博",
        "x\t\tads",
    ]
    file.write_text("\r\n".join(lines), encoding="utf-8")
    more = tmp_path / "more.txt"
    more.write_text("更多", encoding="utf-8")
    assert read_words([file, more], "mask", pinyin=False) == [
        Word("敏感词", "mask"),
        Word("free money", "mask"),
        Word("赌 博", "block", True, "违法 赌博"),
        Word("x", "mask", category="ads"),
        Word("更多", "mask"),
    ]
    assert read_words([more], "block", pinyin=True) == [Word("更多", "block", True)]


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        ("好\n坏\tdrop\n".encode(), 2, "'drop' is no action"),
        ("好\n\n坏\tmask block\n".encode(), 3, "blocked or masked"),
        ("好\n坏\n".encode() + "词".encode("gbk"), 3, "is not UTF-8"),
        ("# 好\n***\tmask\n".encode(), 2, "'***' has no letter"),
        ("好\n".encode() + b"x" * (MAX_WORD + 1), 2, f"more than {MAX_WORD} characters"),
    ],
)
def test_a_broken_line_is_named(file: Path, raw: bytes, line: int, problem: str) -> None:
    file.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        read_words([file], "block", pinyin=False)
    assert (caught.value.file, caught.value.line) == (file, line)
    assert problem in caught.value.problem
    assert caught.value.remedy


def test_too_many_words_and_a_file_that_is_gone(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_words([file], "block", pinyin=False)
    assert caught.value.file == file
    file.write_text("\n".join(f"w{number}" for number in range(MAX_WORDS + 1)), encoding="utf-8")
    with pytest.raises(ConfigError, match="more than 100,000 words"):
        read_words([file], "block", pinyin=False)
