"""How index and query texts are normalised and cut into terms."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

MAX_QUERY = 512
"""Characters of a query that are looked at: its head and its tail, where the question stands."""
_TAIL = 128
MAX_KEY = 1024

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK = rf"[{_HAN}\u3040-\u30ff\uac00-\ud7af]"
_DROPPED = re.compile("[\ud800-\udfff\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe00-\ufe0f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")
_LETTER = rf"(?:(?!{_CJK})[^\W\d_])"
_TOKEN = re.compile(rf"(?P<cjk>{_CJK}+)|(?P<number>\d+(?:[.,:]\d+)*)|(?P<word>{_LETTER}+(?:'{_LETTER}+)?)")
_CJK_CHAR = re.compile(_CJK)
_NOT_WORD = re.compile(r"[\W_]+")
_SENTENCE_END = re.compile(r"[。！？!?；;]+[”’」』）)\"']*\s*|\.[\"')]*\s+|\n+")

_ENGLISH_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "on",
        "at",
        "by",
        "for",
        "from",
        "with",
        "and",
        "or",
        "as",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "am",
        "do",
        "does",
        "did",
        "doing",
        "done",
        "have",
        "has",
        "had",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "there",
        "i",
        "me",
        "my",
        "we",
        "our",
        "us",
        "you",
        "your",
        "he",
        "she",
        "they",
        "them",
        "his",
        "her",
        "their",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "can",
        "could",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "if",
        "so",
        "than",
        "then",
        "about",
        "into",
        "please",
        "hi",
        "hello",
        "hey",
        "thanks",
        "thank",
    ]
)
_CHINESE_STOP = frozenset(
    "的了吗呢吧啊呀嘛么我你您他她它们是在有和与就都也还要会能把被个这那哪什怎样谁几为何请问下一多少于时"
)


@functools.cache
def _to_simplified() -> Callable[[str], str]:
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def normalise(text: str) -> str:
    """NFKC, lower case, Simplified Chinese, single blanks; surrogates and controls are gone."""
    text = _DROPPED.sub("", text)
    if not text.isascii():
        text = _DROPPED.sub("", unicodedata.normalize("NFKC", text))
    text = _CONTROL.sub(" ", text.lower()).strip()
    if _CJK_CHAR.search(text):
        text = _to_simplified()(text)
    return text


def normalise_query(text: str) -> str:
    """At most MAX_QUERY normalised characters of a message: a megabyte costs what a page does."""
    if len(text) > 8 * MAX_QUERY:
        text = text[: 6 * MAX_QUERY] + " " + text[-2 * MAX_QUERY :]
    text = normalise(text)
    if len(text) > MAX_QUERY:
        text = text[: MAX_QUERY - _TAIL - 1] + " " + text[-_TAIL:]
    return text


def exact_key(text: str) -> str:
    """What texts share that differ in case, script, blanks and punctuation only; empty when there is none.

    Texts over 1,024 characters have no key: cutting them could make two different questions equal.
    """
    if len(text) > MAX_KEY:
        return ""
    return key_of(normalise(text))


def key_of(normalised: str) -> str:
    """The exact key of a normalised text."""
    return _NOT_WORD.sub("", normalised) or normalised.replace(" ", "")


def is_cjk(text: str) -> bool:
    """Whether a text is mainly Chinese, Japanese or Korean; one such character weighs three letters."""
    wide = len(_CJK_CHAR.findall(text))
    return wide > 0 and 3 * wide >= len(text.replace(" ", "")) - wide


def stem(word: str) -> str:
    """A light English stem: plural, -ing, -ed, -ly and a final e; other Latin words mostly pass through."""
    if len(word) <= 3 or not word.isascii():
        return word
    word = word.split("'", 1)[0]
    for ending, stays in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ied", "y"), ("ed", ""), ("ly", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + stays
            break
    else:
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] in "bdgmnprt":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def terms(text: str) -> list[str]:
    """Index terms of a normalised text: uni- and bigrams of CJK runs, numbers, stems of other words."""
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup == "cjk":
            found.extend(token)
            found.extend(token[i : i + 2] for i in range(len(token) - 1))
        elif match.lastgroup == "number" or token in _ENGLISH_STOP:
            found.append(token)
        else:
            found.append(stem(token))
    return found


def has_terms(normalised: str) -> bool:
    """Whether a normalised text has any term: signs and emoji alone say nothing to search for."""
    return _TOKEN.search(normalised) is not None


def weight_class(term: str) -> int:
    """1 for a function word or question frame, which says little about the subject, else 0."""
    return int(term in _ENGLISH_STOP or (len(term) <= 2 and _CHINESE_STOP.issuperset(term)))


def sentences(text: str) -> list[str]:
    """Sentences of a text in order, ends included, blanks trimmed; a decimal point ends none."""
    start, parts = 0, []
    for end in _SENTENCE_END.finditer(text):
        parts.append(text[start : end.end()].strip())
        start = end.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]
