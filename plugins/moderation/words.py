"""Finds words of a list in texts, however they are written: one automaton over what is left of a text without
separators, and a rule for each finding about what stood between and beside its characters.

A word with Chinese characters is found with up to four separators between any two ("敏 感-词"). A word of
letters is found by itself, not inside another one, or spelled out with separators between all its letters
("b.a.d"), not across the borders of ordinary words. The pinyin of a Chinese word is looked for like a word of
letters that may also be parted at its syllables ("min gan ci").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ahocorasick_rs import AhoCorasick, Implementation

from plugins.moderation.folding import INSIDE, Folding, is_latin, is_separator

Action = Literal["block", "mask"]
LEAST_PINYIN = 5
"""Letters: shorter ones would be found in too much that is harmless."""


@dataclass(frozen=True, slots=True)
class Word:
    """One of the list, and what to do about who writes it."""

    text: str
    action: Action


@dataclass(frozen=True, slots=True)
class Found:
    """Where a word stands in a text."""

    start: int
    end: int
    word: Word


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What the automaton looks for; syllables: the places where the pinyin of a word may be parted."""

    text: str
    word: Word
    syllables: frozenset[int] = frozenset()


class Words:
    """A list, compiled; a thread should do that where it is long (100,000 take about half a second)."""

    def __init__(self, words: Iterable[Word], *, pinyin: bool = False) -> None:
        """pinyin: find Chinese words of two characters or more in letters, too."""
        self._folding = Folding()
        patterns = [pattern for word in words for pattern in self._patterns(word, pinyin)]
        patterns.sort(key=lambda pattern: pattern.text)
        self._patterns_found = patterns
        self._texts = [pattern.text for pattern in patterns]
        self._longest = max(map(len, self._texts), default=0)
        self._automaton = AhoCorasick(self._texts, implementation=Implementation.ContiguousNFA)

    def __len__(self) -> int:
        return len(self._texts)

    def find(self, text: str, *, begin: int = 0) -> list[Found]:
        """All findings from a place on, in the order of their ends; they may overlap."""
        folded, places = self._compact(text)
        found = []
        for number, first, last in self._automaton.find_matches_as_indexes(folded, overlapping=True):
            pattern = self._patterns_found[number]
            at = places[first:last]
            if at[0] >= begin and _stands_alone(text, at, pattern):
                found.append(Found(at[0], at[-1] + 1, pattern.word))
        return found

    def hide(self, text: str, *, begin: int = 0) -> tuple[str, list[Found]]:
        """The text with stars for every finding from a place on, and the findings."""
        found = self.find(text, begin=begin)
        for one in found:
            text = text[: one.start] + "*" * (one.end - one.start) + text[one.end :]
        return text, found

    def open_end(self, text: str, begin: int) -> int:
        """Where the end of a text begins that may be the beginning of a word; its length if none does."""
        folded, places = self._compact(text)
        for first in range(max(0, len(folded) - self._longest), len(folded)):
            if places[first] < begin:
                continue
            rest = folded[first:]
            place = bisect_left(self._texts, rest)
            if place < len(self._texts) and self._texts[place].startswith(rest):
                return places[first]
        return len(text)

    def _compact(self, text: str) -> tuple[str, Sequence[int]]:
        """The folded text without separators, and where its characters stand."""
        folded = self._folding.fold(text)
        if not any(map(is_separator, set(folded))):
            return folded, range(len(folded))
        places = [place for place, char in enumerate(folded) if not is_separator(char)]
        return "".join([folded[place] for place in places]), places

    def _patterns(self, word: Word, pinyin: bool) -> Iterator[_Pattern]:
        text, _ = self._compact(word.text)
        if not text:
            return
        yield _Pattern(text, word)
        if pinyin and len(text) > 1 and not any(char.isascii() for char in text):
            syllables = _syllables(text)
            letters = "".join(syllables)
            if len(letters) >= LEAST_PINYIN and letters.isascii() and letters.isalpha():
                ends = [sum(map(len, syllables[:count])) for count in range(1, len(syllables))]
                yield _Pattern(letters, word, frozenset(ends))


def _stands_alone(text: str, at: Sequence[int], pattern: _Pattern) -> bool:
    """Whether what stands between and beside the characters of a finding leaves it one."""
    parted = {number for number in range(1, len(at)) if at[number] - at[number - 1] > 1}
    if any(at[number] - at[number - 1] > INSIDE + 1 for number in parted):
        return False
    if is_latin(pattern.text[0]) and at[0] > 0 and is_latin(text[at[0] - 1]):
        return False
    if is_latin(pattern.text[-1]) and at[-1] + 1 < len(text) and is_latin(text[at[-1] + 1]):
        return False
    if not parted or not pattern.text.isascii():
        return True
    return parted == pattern.syllables or len(parted) == len(at) - 1


def _syllables(text: str) -> list[str]:
    from pypinyin import lazy_pinyin  # 0.1 s, for those who want it

    return list(lazy_pinyin(text))
