"""Texts as the automaton compares them, so that a word is found however it is written.

Folding makes one letter of what looks alike: full width and half width, capital and small, accented and
plain, Traditional and Simplified. What is invisible is gone. Chinese characters (and kana, hangul) stand
together, whatever blanks and signs are between them. Other letters and digits make words, each between two
marks, so that `class hole` holds no `ass` and no `asshole`; signs such as * and _ inside a word are gone.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from itertools import compress

from bot.retrieval import normalise

MARK = "\x02"
"""Begins and ends each word of letters in a folded text."""
_JOINER = "\x01"
_CJK = (
    "\u3005-\u3007\u3040-\u30ff\u3131-\u318e\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_LETTER = rf"[^ {_JOINER}{_CJK}]"
_IS_CJK = re.compile(f"[{_CJK}]")
_JOINED = re.compile(rf"(?<={_LETTER}){_JOINER}+(?={_LETTER})")
_WORD = re.compile(f"{_LETTER}+")
_OPEN = re.compile(rf"{_LETTER}[{_JOINER}]*$")
_KNOWN = 65536
"""Characters whose folded form is remembered: whoever sends all of Unicode costs no more memory."""


class _Table(dict[int, str]):
    """What `str.translate` makes of each character, worked out when it is first seen."""

    def __missing__(self, code: int) -> str:
        folded = _fold_character(chr(code))
        if len(self) < _KNOWN:
            self[code] = folded
        return folded


class _Counts(dict[int, str]):
    """As a character whose code it is: how many letters each character folds to."""

    def __missing__(self, code: int) -> str:
        count = chr(sum(letter not in (" ", _JOINER) for letter in _table()[code]))
        if len(self) < _KNOWN:
            self[code] = count
        return count


@functools.cache
def _table() -> _Table:
    return _Table()


@functools.cache
def _counts() -> _Counts:
    return _Counts()


def _fold_character(char: str) -> str:
    """Its letters; a blank for what separates, a joiner for signs inside words, nothing for the invisible."""
    category = unicodedata.category(char)
    if category in ("Mn", "Me", "Cf"):
        return ""
    plain = unicodedata.normalize("NFKC", char)
    letters = "".join(filter(str.isalnum, plain))
    if letters and _IS_CJK.search(letters):
        return "".join(filter(str.isalnum, normalise(letters)))
    if letters:
        bare = unicodedata.normalize("NFKD", letters).casefold()
        return "".join(filter(str.isalnum, bare)) or " "
    return _JOINER if category[0] == "S" or plain in ("*", "_") else " "


def prepare(characters: str) -> None:
    """Work out the folded forms of these characters, which takes a moment each, before they are needed."""
    characters.translate(_counts())


def is_cjk(char: str) -> bool:
    """Whether words of this script are written without blanks."""
    return _IS_CJK.match(char) is not None


def fold(text: str) -> str:
    """The folded text."""
    return _spaced(text.translate(_table()))


def fold_open(text: str) -> tuple[str, bool]:
    """The folded text of which more may follow, and whether its last word may go on: it has no end then."""
    translated = text.translate(_table())
    folded = _spaced(translated)
    is_open = _OPEN.search(translated) is not None
    return (folded.removesuffix(MARK) if is_open else folded), is_open


def _spaced(translated: str) -> str:
    if _JOINER in translated:
        translated = _JOINED.sub("", translated).replace(_JOINER, " ")
    return "".join(
        f"{MARK}{part}{MARK}" if part.isascii() else _WORD.sub(_in_marks, part) for part in translated.split()
    )


def _in_marks(word: re.Match[str]) -> str:
    return f"{MARK}{word[0]}{MARK}"


def owners(text: str) -> Sequence[int]:
    """For each letter of the folded text (marks do not count) the index of the character it comes from."""
    counts = text.translate(_counts()).encode("latin-1")
    if counts and max(counts) > 1:
        return [place for place, count in enumerate(counts) for _ in range(count)]
    return list(compress(range(len(text)), counts))
