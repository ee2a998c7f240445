"""Words are found however they are written, and nowhere else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.moderation.lexicon import Lexicon, masked
from plugins.moderation.words import Word


def lexicon(*words: str, pinyin: bool = False) -> Lexicon:
    return Lexicon(Word(word, "mask", pinyin) for word in words)


def mask(found: Lexicon, text: str) -> str:
    return masked(text, found.hits(text))


WORDS = ("敏感词", "大麻", "赌", "asshole", "bad", "加QQ", "free money", "av女优", "12345", "Été", "ﬁsh")
ALL = lexicon(*WORDS)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("有敏感词吗", "有***吗"),
        ("敏 感-词", "*****"),
        ("敏*感*词", "*****"),
        ("敏\u200b感\ufeff词", "*****"),
        ("敏感詞", "***"),
        ("敏…感，词", "*****"),
        ("敏\n感\n词", "*****"),
        ("这“大”麻", "这“***"),
        ("去赌吧", "去*吧"),
        ("ＡＳＳＨＯＬＥ！", "*******！"),
        ("an AssHole, really", "an *******, really"),
        ("a s s h o l e", "*************"),
        ("a.s.s.h.o.l.e", "*************"),
        ("a, s, s, h, o, l, e", "*******************"),
        ("as*sho_le", "*********"),
        ("a̶s̶s̶h̶o̶l̶e", "*************"),
        ("他说bad的", "他说***的"),
        ("快加ＱＱ吧", "快***吧"),
        ("加-qq", "****"),
        ("FREE   money", "************"),
        ("free-money", "**********"),
        ("看av女优", "看****"),
        ("ete, ÉTÉ, E\u0301TE", "***, ***, ****"),
        ("fish FISH ﬁsh", "**** **** ***"),
        ("１２３４５", "*****"),
    ],
)
def test_is_found(text: str, wanted: str) -> None:
    assert mask(ALL, text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "很大，麻烦你了",
        "太大。麻烦",
        "敏，感词",
        "敏感\n词",
        "class hole",
        "as shole",
        "ass hole",
        "assholes",
        "badly, a bad_ge",
        "ba d",
        "b ad",
        "加qqq",
        "free. Money talks",
        "freemoney",
        "java女优",
        "订单 9123456",
        "",
        " ,，\u200b",
    ],
)
def test_is_not_found(text: str) -> None:
    assert mask(ALL, text) == text


def test_overlapping_words_are_all_found() -> None:
    both = Lexicon([Word("敏感", "mask"), Word("感词", "block"), Word("敏感词汇", "mask")])
    assert {hit.word.text for hit in both.hits("敏感词")} == {"敏感", "感词"}
    assert mask(both, "敏感词。") == "***。"


def test_of_two_actions_for_one_word_the_stricter_counts() -> None:
    for order in (("mask", "block"), ("block", "mask")):
        (hit,) = Lexicon([Word("敏感", order[0]), Word("敏 感", order[1])]).hits("敏感")  # type: ignore[arg-type]
        assert hit.word.action == "block"


# -- whatever is put between, whatever the width ------------------------------------------------

BETWEEN = [" ", "　", "-", "*", "_", "·", "\u200b", "\u2060", "“", "（", "~", "😀", "\u0301", "/", "+", "\t"]
HAN = st.text(st.sampled_from("天地玄黄宇宙洪荒日月盈昃"), min_size=2, max_size=6)
LATIN = st.text(st.sampled_from("abcdefghij"), min_size=3, max_size=8)
GAPS = st.lists(st.text(st.sampled_from(BETWEEN), max_size=3), min_size=8, max_size=8)


@given(HAN, GAPS, st.sampled_from(["", "说", "ok ", "，"]), st.sampled_from(["", "吧", " ok", "。"]))
def test_a_chinese_word_is_found_with_anything_in_it(
    word: str, gaps: list[str], before: str, after: str
) -> None:
    inside = "".join(char + gap for char, gap in zip(word[:-1], gaps, strict=False)) + word[-1]
    wanted = before + "*" * len(inside) + after
    assert mask(lexicon(word), before + inside + after) == wanted


@given(LATIN, st.text(st.sampled_from("，。 ,.-*!\n"), min_size=1, max_size=3), st.booleans())
def test_a_word_of_letters_is_found_letter_by_letter(word: str, gap: str, wide: bool) -> None:
    if wide:
        word = "".join(chr(ord(char) + 0xFEE0) for char in word).upper()
    inside = gap.join(word)
    assert mask(lexicon(word), f"是 {inside} 的") == f"是 {'*' * len(inside)} 的"


@given(LATIN, st.text(st.sampled_from("abcdefghij 是，"), max_size=10), st.text("abcdefghij 是", max_size=10))
def test_a_word_of_letters_is_found_as_a_whole_word_only(word: str, before: str, after: str) -> None:
    is_whole = not before[-1:].isascii() or not before[-1:].isalpha()
    is_whole = is_whole and (not after[:1].isascii() or not after[:1].isalpha())
    found = [hit for hit in lexicon(word).hits(before + word + after) if hit.start == len(before)]
    assert [hit.end - hit.start for hit in found if hit.end == len(before + word)] == [len(word)] * is_whole


@given(st.text(max_size=200))
@example("ﷺ㍿½①")
def test_masking_changes_nothing_but_what_is_found(text: str) -> None:
    found = lexicon("a", "敏感词", "ab", "1", "株式会社")
    hits = found.hits(text)
    result = masked(text, hits)
    inside = {place for hit in hits for place in range(hit.start, hit.end)}
    assert len(result) == len(text)
    assert all(result[place] == ("*" if place in inside else char) for place, char in enumerate(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_text_without_a_words_characters_stays(text: str) -> None:
    if not {*"坏东西"} & {*unicodedata.normalize("NFKC", text)}:
        assert lexicon("坏东西").hits(text) == []


@given(
    st.lists(st.text("天地玄", min_size=1, max_size=4), min_size=1, max_size=6),
    st.text("天地玄 -", max_size=40),
)
def test_the_same_is_found_as_by_looking_everywhere(words: list[str], text: str) -> None:
    places = [place for place, char in enumerate(text) if char not in " -"]
    bare = "".join(text[place] for place in places)
    wanted = {
        (places[at], places[at + len(word) - 1] + 1, word)
        for word in words
        for at in range(len(bare))
        if bare.startswith(word, at)
    }
    assert {(hit.start, hit.end, hit.word.text) for hit in lexicon(*words).hits(text)} == wanted


def test_any_character_may_stand_in_a_text() -> None:
    found = lexicon("坏东西")
    for first in range(0, 0x110000, 4096):
        assert found.hits("".join(map(chr, range(first, first + 4096)))) == []


# -- in pinyin ----------------------------------------------------------------------------------

PINYIN = lexicon("敏感词", "赌博", "妈的", "时命", "绿茶", "草", "提名", "阿Q", "女生", pinyin=True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("minganci", "********"),
        ("发MIN gan ci吧", "发**********吧"),
        ("mingan ci, min ganci", "*********, *********"),
        ("mǐn gǎn cí", "**********"),
        ("min-gan-ci", "**********"),
        ("I say minganci", "I say ********"),
        ("网上dubo", "网上dubo"),
        ("网上du bo", "网上*****"),
        ("lvcha", "lvcha"),
        ("lv cha 和 lu cha", "****** 和 ******"),
        ("nv sheng nvsheng", "******** *******"),
    ],
)
def test_pinyin_is_found(text: str, wanted: str) -> None:
    assert mask(PINYIN, text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "made in China",
        "made",
        "timing",
        "the ma de of it",
        "mingancity",
        "aminganci",
        "min gan",
        "cao",
        "tom ing",
        "a q",
    ],
)
def test_english_is_no_pinyin(text: str) -> None:
    assert mask(PINYIN, text) == text


def test_pinyin_is_looked_for_where_it_is_wanted() -> None:
    assert lexicon("敏感词").hits("minganci") == []
    assert PINYIN.hits("minganci", pinyin=False) == []
