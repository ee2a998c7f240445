"""Lists of words in text files: one word a line, after a tab what to do about it, # before a comment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from bot import DataError
from plugins.moderation.words import Action, Word

MOST_WORDS = 500_000
LONGEST = 64
"""Characters of a word."""


def read_words(files: Iterable[Path], usual: Action) -> list[Word]:
    """All words of the files, each once; usual: what to do where a line does not say. Raises DataError."""
    words: dict[str, Word] = {}
    for file in files:
        for word in _read(file, usual):
            words.setdefault(word.text, word)
        if len(words) > MOST_WORDS:
            raise DataError(
                f"there are more than {MOST_WORDS:,} words", file=file, remedy="shorten the lists"
            )
    return list(words.values())


def _read(file: Path, usual: Action) -> Iterator[Word]:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", file=file, remedy="save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from error
    for row, line in enumerate(lines, 1):
        text, _, action = line.partition("\t")
        text, action = text.strip(), action.strip().lower()
        if not text or text.startswith("#"):
            continue
        if len(text) > LONGEST:
            remedy = f"{LONGEST} characters at most"
            raise DataError(f"the word has {len(text)} characters", file=file, row=row, remedy=remedy)
        if action not in ("", *get_args(Action)):
            remedy = f"write {' or '.join(get_args(Action))} after the tab, or nothing"
            raise DataError(f"{action!r} is nothing that can be done", file=file, row=row, remedy=remedy)
        yield Word(text, "block" if action == "block" else "mask" if action == "mask" else usual)
