"""Texts as words are looked for in them: one character for each, whatever its width, case or script."""

from __future__ import annotations

import unicodedata

from bot.retrieval import normalise

INSIDE = 4
"""Characters that may stand between two of a word at most."""


class _Folded(dict[int, str]):
    """Each character's plain form, worked out when it is first met; always one character."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        folded = "" if char.isspace() else normalise(char)
        if len(folded) != 1:
            folded = " " if char.isspace() or unicodedata.category(char) == "Cf" else char
        self[code] = folded
        return folded


class Folding:
    """Folds texts; what it has met it knows."""

    def __init__(self) -> None:
        self._chars = _Folded()

    def fold(self, text: str) -> str:
        """As long as the text: full-width is half-width, capitals are small, Traditional is Simplified."""
        return text.translate(self._chars)


def is_separator(char: str) -> bool:
    """Whether it may hide a word by standing inside: blanks and signs, but nothing that ends a sentence."""
    return not (char.isalnum() or char in "\n。！？；，、：…,!?;:")


def is_latin(char: str) -> bool:
    """A letter or digit of words that blanks part."""
    return char.isascii() and char.isalnum()
