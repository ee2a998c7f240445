"""Words are found however they are written, and not where they only seem to stand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.moderation.folding import INSIDE
from plugins.moderation.streaming import HidingStream
from plugins.moderation.words import Word, Words

LIST = ["敏感词", "代开发票", "加v群", "bad", "badly", "asshole", "妈的", "开发票吗"]
WORDS = Words([Word(text, "mask") for text in LIST], pinyin=True)
SEPARATORS = " *-_.·~|/\\+#@\u200b　"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("这是敏感词吗", "这是***吗"),
        ("这是敏 感-词吗", "这是*****吗"),
        ("敏*感*词", "*****"),
        ("敏\u200b感词", "****"),
        ("ＢＡＤ word", "*** word"),
        ("b.a.d", "*****"),
        ("B A D!", "*****!"),
        ("not bad.", "not ***."),
        ("代開發票", "****"),
        ("mingan ci", "mingan ci"),
        ("min gan ci 好", "********** 好"),
        ("minganci", "********"),
        ("加V群", "***"),
    ],
)
def test_it_is_found_however_it_is_written(text: str, hidden: str) -> None:
    assert WORDS.hide(text)[0] == hidden


@pytest.mark.parametrize(
    "text",
    [
        "badge",
        "forbad",
        "a class hole",
        "as shole",
        "ba d",
        "我爱你妈，的确好",
        "你妈。的确",
        "敏感的词",
        "敏" + " " * (INSIDE + 1) + "感词",
        "加入v群",
        "xminganci",
        "",
    ],
)
def test_what_only_seems_to_stand_there_stays(text: str) -> None:
    assert WORDS.hide(text) == (text, [])


def test_a_list_may_be_empty() -> None:
    assert Words([]).hide("敏感词") == ("敏感词", [])
    assert Words([Word(" . ", "block")]).find("a . b") == []


@given(
    word=st.sampled_from([text for text in LIST if not text.isascii()]),
    gaps=st.lists(st.text(SEPARATORS, max_size=INSIDE), min_size=4, max_size=4),
    before=st.text("今天好。 ", max_size=5),
    after=st.text("，今天好", max_size=5),
)
def test_separators_never_hide_a_chinese_word(word: str, gaps: list[str], before: str, after: str) -> None:
    parts = [char + gap for char, gap in zip(word, gaps, strict=False)]
    text = before + "".join(parts).rstrip(SEPARATORS) + after
    shown, found = WORDS.hide(text)
    assert any(one.word.text == word for one in found)
    assert len(shown) == len(text)
    assert shown.startswith(before)
    assert shown.endswith(after)


@given(
    text=st.text("敏感词代开发票吗加v群bad ly.-m", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=6)
)
def test_a_growing_text_is_hidden_as_the_whole_one(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    stream = HidingStream(WORDS)
    shown = "".join(stream.push(text[begin:end]) for begin, end in pairwise(places))
    assert shown + stream.end() == WORDS.hide(text)[0]


def test_what_can_be_no_word_is_not_held_back() -> None:
    stream = HidingStream(WORDS)
    assert stream.push("今天天气") == "今天天气"
    assert stream.push("很敏") == "很"
    assert stream.push("感") == ""
    assert stream.push("度高") == "敏感度高"
    assert stream.end() == ""
