"""Normalisation, keys, terms and sentences."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.retrieval.text import (
    MAX_QUERY,
    exact_key,
    is_cjk,
    normalise,
    normalise_query,
    sentences,
    stem,
    terms,
)

any_text = st.text(st.characters(codec=None), max_size=200)


@given(any_text)
def test_normalise_is_stable_and_encodable(text: str) -> None:
    once = normalise(text)
    once.encode("utf-8")
    assert normalise(once) == once
    assert once == once.strip()
    assert "  " not in once
    assert "\x00" not in once


@given(any_text)
def test_terms_and_keys_take_any_text(text: str) -> None:
    normalised = normalise(text)
    assert all(terms(normalised)) or not terms(normalised)
    assert exact_key(normalised) == exact_key(text)
    assert not any(character.isspace() for character in exact_key(text))


@given(any_text)
def test_sentences_lose_nothing_but_blanks(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("運費是多少?", "运费是多少？"),
        ("ＡＴＭ 在哪里", "atm在哪里"),
        ("How do I pay?", "how do i PAY"),
        ("包邮吗\u200b\x00", "包邮吗"),
        ("退\ud800货", "退货"),
    ],
)
def test_same_question_has_same_key(one: str, other: str) -> None:
    assert exact_key(one) == exact_key(other) != ""


def test_signs_alone_keep_a_key_and_long_texts_have_none() -> None:
    assert exact_key("???") != exact_key("!!!") != ""
    assert exact_key("") == exact_key(" \x00") == ""
    assert exact_key("长" * 2000) == ""


def test_cjk_runs_give_uni_and_bigrams_and_latin_words_beside_them_stay_whole() -> None:
    assert terms("qq密码3.5元") == ["qq", "密", "码", "密码", "3.5", "元"]
    assert terms("what's in x86_64") == ["what", "in", "x", "86", "64"]


@pytest.mark.parametrize(
    ("word", "same"),
    [("cards", "card"), ("topped", "topping"), ("companies", "company"), ("charges", "charged")],
)
def test_light_stems_join_forms(word: str, same: str) -> None:
    assert stem(word) == stem(same)


@pytest.mark.parametrize("word", ["bus", "this", "us", "glass", "müllers"])
def test_stems_leave_short_and_other_words(word: str) -> None:
    assert stem(word) == word


def test_script_of_a_text() -> None:
    assert is_cjk("怎么用 iphone 截屏")
    assert not is_cjk("how do i say 你好 in english, please")
    assert not is_cjk("")


def test_decimal_point_ends_no_sentence() -> None:
    assert sentences("价格是3.5元。“好的！”他说。It costs 3.5 dollars. Done") == [
        "价格是3.5元。",
        "“好的！”",
        "他说。",
        "It costs 3.5 dollars.",
        "Done",
    ]


def test_query_of_a_megabyte_is_bounded_and_keeps_head_and_tail() -> None:
    start = time.process_time()
    text = normalise_query("开头" + "ab \ud800" * 300_000 + "结尾")
    assert time.process_time() - start < 1
    assert len(text) <= MAX_QUERY
    assert text.startswith("开头")
    assert text.endswith("结尾")
