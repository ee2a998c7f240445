"""Chinese words written with letters: whole syllables, together or apart, that are no English by accident.

pypinyin is imported when a word asks for it: it takes a moment and some memory.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

SHORTEST = 6
"""Letters of two syllables in one word from which they are looked at: `made` and `women` are English."""
_ENGLISH = re.compile(
    "change|hansen|(?:ban|can|cun|di|fan|fu|ga|gun|li|man|mi|na|pan|pen|pi|pin|run|shi|sun|ta|tan|ti|tu)(?:ming|ning)"
)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]{2,}")
_LONGEST = 40
"""Letters of a word that is looked at: no longer one is pinyin."""


def spellings(word: str) -> Iterator[Sequence[str]]:
    """The written forms of a Chinese word, each a sequence of words of letters; none of a single character.

    All syllables together, each alone, and in two words.
    """
    syllables = _syllables_of(word)
    if syllables is None:
        return
    for form in {tuple(syllables), tuple(syllable.replace("v", "u") for syllable in syllables)}:
        joined = "".join(form)
        if len(form) > 2 or (len(joined) >= SHORTEST and not _ENGLISH.fullmatch(joined)):
            yield (joined,)
        yield form
        if len(form) > 2:
            yield from (("".join(form[:cut]), "".join(form[cut:])) for cut in range(1, len(form)))


def is_pinyin(word: str) -> bool:
    """Whether a word of letters consists of whole syllables."""
    if len(word) > _LONGEST:
        return False
    known = _syllables()
    ends = {0}
    for end in range(1, len(word) + 1):
        if any(start in ends and word[start:end] in known for start in range(max(0, end - 6), end)):
            ends.add(end)
    return len(word) in ends


def _syllables_of(word: str) -> list[str] | None:
    """The syllables of a word of Chinese characters only."""
    if not _HAN.fullmatch(word):
        return None
    from pypinyin import lazy_pinyin

    found = lazy_pinyin(word, errors="ignore")
    return found if len(found) == len(word) and _syllables().issuperset(found) else None


@functools.cache
def _syllables() -> frozenset[str]:
    """Every syllable there is, without tones."""
    from pypinyin.constants import PINYIN_DICT

    spelt = {reading for readings in PINYIN_DICT.values() for reading in readings.split(",")}
    plain = {
        "".join(char for char in unicodedata.normalize("NFD", reading) if not unicodedata.combining(char))
        for reading in spelt
    }
    plain |= {reading.replace("u", "v") for reading in plain if reading[:1] in ("l", "n")}
    return frozenset(item for item in plain if item.isascii() and not {*"aeiouv"}.isdisjoint(item))
