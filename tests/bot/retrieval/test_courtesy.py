"""Greetings, thanks and emoji around a question do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bot.retrieval import Entry, Index, normalise
from bot.retrieval.courtesy import exact_keys, without_courtesy


class Letters:
    """An encoder of letter counts."""

    name, dim = "letters", 64

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.full((len(texts), self.dim), 0.01, np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                vectors[row, ord(letter) % self.dim] += 1
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.mark.parametrize(
    "text",
    [
        "😀👨\u200d👩\u200d👧 你好  运费是多少？",
        "你好，请问运费是多少呢",
        "您好 运费是多少 谢谢",
        "在吗 運費是多少？谢谢啦😊",
        "亲，想问一下运费是多少，急急急",
        "客服你好 运费是多少",
        "hi 运费是多少 🙏🙏",
    ],
)
def test_an_exact_question_stays_exact(text: str, letters: Letters) -> None:
    index = Index("faq", encoder=letters)
    index.replace([Entry("fee", ("运费是多少？",), "8 元"), Entry("hi", ("你好",), "您好")])
    found = index.exact(text)
    assert found is not None
    assert (found.id, found.exact, found.confidence) == ("fee", True, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "hi, how much is shipping please?",
        "Excuse me, HOW MUCH IS SHIPPING? Thanks a lot 👍",
        "How much is shipping",
    ],
)
def test_an_exact_english_question_stays_exact(text: str, letters: Letters) -> None:
    index = Index("faq", encoder=letters)
    index.replace([Entry("fee", ("Hello, how much is shipping?",), "$8")])
    found = index.exact(text)
    assert found is not None
    assert found.matched == "Hello, how much is shipping?"


@pytest.mark.parametrize(
    "text",
    [
        "你好贵啊",
        "你好吗",
        "亲子装有货吗",
        "客服电话是多少",
        "晚上好难受",
        "怎么说谢谢",
        "history of hi-fi",
        "pleased",
    ],
)
def test_what_only_looks_like_courtesy_stays(text: str) -> None:
    assert without_courtesy(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    "text", ["你好", "谢谢！", "hi", "Thank you", "😀", "客服，在吗", "您好 谢谢 🙏", "？"]
)
def test_courtesy_alone_stays(text: str) -> None:
    assert without_courtesy(normalise(text)) == normalise(text)


def test_a_text_as_it_is_comes_before_one_that_is_alike_without_courtesy(letters: Letters) -> None:
    index = Index("faq", encoder=letters)
    index.replace([Entry("polite", ("请问运费呢",), "1"), Entry("plain", ("运费",), "2")])
    for text, expected in (("请问运费呢", "polite"), ("运费", "plain"), ("你好 运费", "plain")):
        found = index.exact(text)
        assert found is not None
        assert found.id == expected


def test_search_weighs_the_question_alone(letters: Letters) -> None:
    index = Index("faq", encoder=letters)
    index.replace([Entry("fee", ("运费是多少？",), "8"), Entry("open", ("几点开门",), "9")])
    polite, plain = index.search("你好 运费要多少 谢谢"), index.search("运费要多少")
    assert [(hit.id, hit.confidence) for hit in polite] == [(hit.id, hit.confidence) for hit in plain]


@given(
    st.lists(
        st.sampled_from(["你好", "请问", "谢谢", "hi", "please", "😀", "运费", "多少", " ", ",", "?", "a"])
    )
)
def test_what_remains_is_a_part_with_a_word_in_it(parts: list[str]) -> None:
    text = normalise("".join(parts))
    rest = without_courtesy(text)
    assert rest in text
    assert without_courtesy(rest) == rest
    assert any(map(str.isalnum, rest)) == any(map(str.isalnum, text))
    key, bare = exact_keys(text)
    assert bool(key) == bool(bare)
