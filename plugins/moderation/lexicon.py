"""All sensitive words in automata, and where they stand in a text."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import pairwise

from ahocorasick_rs import AhoCorasick, Implementation

from plugins.moderation.folding import MARK, fold, is_cjk, owners, prepare
from plugins.moderation.pinyin import is_pinyin, spellings
from plugins.moderation.words import Word

APART = 3
"""Letters from which a word is found with anything between all of them: `b a d` and `坏，东，西`."""
MASK = "*"
_CLAUSE = re.compile("[,，。.．｡、､!！?？;；:：…\n\r\u0085\u2028\u2029]")
_PART = 32768
"""Patterns of one automaton: no other thread runs while it is built, some 15 ms for so many."""
_PIECE = 4096
_NEIGHBOURS = 200
"""Letters before and after that tell whether two syllables are pinyin."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A word found at text[start:end]."""

    start: int
    end: int
    word: Word


@dataclass(frozen=True, slots=True)
class _Form:
    """What a pattern stands for; `syllables`: of a word in pinyin, 0 where it is the word itself."""

    word: Word
    syllables: int = 0


class Lexicon:
    """Finds words in texts. Building it takes a second for 100,000 words: not on the event loop."""

    def __init__(self, words: Iterable[Word]) -> None:
        forms: dict[str, _Form] = {}
        for word in words:
            for pattern, form in _forms(word):
                known = forms.get(pattern)
                if known is None or _weight(form) > _weight(known):
                    forms[pattern] = form
        prepare("".join({char for form in forms.values() for char in form.word.text}))
        self._patterns = _sorted(list(forms))
        self._forms = [forms[pattern] for pattern in self._patterns]
        self._firsts = {pattern[0] for pattern in self._patterns}
        self._longest = max(map(len, self._patterns), default=0)
        self._automata = [
            (at, AhoCorasick(part, implementation=Implementation.ContiguousNFA, store_patterns=False))
            for at, part in _parts(self._patterns, _PART)
        ]

    def hits(self, text: str, *, folded: str | None = None, pinyin: bool = True) -> list[Hit]:
        """Every word in a text, overlapping ones too; folded: the text's folded form, where it is known."""
        folded = fold(text) if folded is None else folded
        found = [
            (at + index, start, end)
            for at, automaton in self._automata
            for index, start, end in automaton.find_matches_as_indexes(folded, overlapping=True)
        ]
        if not found:
            return []
        places = owners(text)
        hits = []
        for index, start, end in found:
            form = self._forms[index]
            if form.syllables and not (pinyin and _is_meant(folded, start, end, form)):
                continue
            first = start - folded.count(MARK, 0, start)
            spread = places[first : first + end - start - folded.count(MARK, start, end)]
            if form.syllables or _is_together(text, spread):
                hits.append(Hit(spread[0], spread[-1] + 1, form.word))
        return hits

    def held(self, folded: str) -> int:
        """How many letters at the end of a folded text may begin a word."""
        for start in range(max(0, len(folded) - self._longest + 1), len(folded)):
            if folded[start] in self._firsts and self._begins(folded[start:]):
                return len(folded) - start - folded.count(MARK, start)
        return 0

    def _begins(self, end: str) -> bool:
        """Whether a pattern begins with this and goes on."""
        index = bisect_left(self._patterns, end)
        index += index < len(self._patterns) and self._patterns[index] == end
        return index < len(self._patterns) and self._patterns[index].startswith(end)


def masked(text: str, hits: Sequence[Hit]) -> str:
    """The text with asterisks for all that stands between a word's first and last character."""
    characters = list(text)
    for hit in hits:
        characters[hit.start : hit.end] = MASK * (hit.end - hit.start)
    return "".join(characters)


def _sorted(texts: Sequence[str]) -> list[str]:
    """As `sorted`, in pieces between which other threads may run."""
    return list(merge(*(sorted(part) for _, part in _parts(texts, _PIECE))))


def _parts(texts: Sequence[str], size: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Slices of a list, each with where it begins."""
    return ((at, texts[at : at + size]) for at in range(0, len(texts), size))


def _forms(word: Word) -> Iterator[tuple[str, _Form]]:
    """The patterns of a word: as it is, letter by letter where it has letters, and its pinyin."""
    folded = fold(word.text)
    yield folded, _Form(word)
    letters = folded.replace(MARK, "")
    if len(letters) >= APART and MARK in folded:
        yield (
            "".join(letter if is_cjk(letter) else f"{MARK}{letter}{MARK}" for letter in letters),
            _Form(word),
        )
    if word.pinyin:
        for parts in spellings(letters):
            yield "".join(f"{MARK}{part}{MARK}" for part in parts), _Form(word, len(letters))


def _weight(form: _Form) -> tuple[bool, bool]:
    return form.word.action == "block", not form.syllables


def _is_together(text: str, places: Sequence[int]) -> bool:
    """Whether the letters at these places make a word, for no clause or sentence ends between them.

    `很大，麻烦` has no 大麻. Where something stands between all of its letters, that is no punctuation.
    """
    if places[-1] - places[0] == len(places) - 1:
        return True
    gaps = [text[before + 1 : after] for before, after in pairwise(places) if after - before > 1]
    if len(places) >= APART and len(gaps) == len(places) - 1:
        return True
    return not any(_CLAUSE.search(gap) for gap in gaps)


def _is_meant(folded: str, start: int, end: int, form: _Form) -> bool:
    """Whether pinyin is no English: two syllables are not, where a word of the letters around is none."""
    if form.syllables > 2:
        return True
    first, last = start, end
    while first > max(0, start - _NEIGHBOURS) and not is_cjk(folded[first - 1]):
        first -= 1
    while last < min(len(folded), end + _NEIGHBOURS) and not is_cjk(folded[last]):
        last += 1
    around = filter(None, folded[first:last].split(MARK))
    return all(word.isdecimal() or is_pinyin(word) for word in around)
