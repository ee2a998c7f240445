"""The extractive answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.retrieval import best_sentences

TEXT = (
    "青禾成立于1990年，总部在杭州。压缩机保修三年，其余零件保修一年。保修从收货之日算起。"
    "门店每天九点开门。The fridge weighs 52.5 kg. It is delivered within three days."
)


def test_sentences_that_bear_on_the_question_are_given() -> None:
    assert "压缩机保修三年" in best_sentences("压缩机保修多久？", TEXT, limit=40)
    assert "1990" not in best_sentences("压缩机保修多久？", TEXT, limit=40)
    assert best_sentences("How much does the fridge weigh?", TEXT, limit=40) == "The fridge weighs 52.5 kg."
    assert "九点" in best_sentences("門店幾點開門", TEXT, limit=40)


def test_short_text_is_given_whole() -> None:
    assert best_sentences("什么", " 很短。也很短。 ") == "很短。也很短。"
    assert best_sentences("什么", "") == ""


@given(st.text(max_size=50), st.text(max_size=600), st.integers(20, 200))
def test_any_text_gives_some_of_it_within_the_limit(question: str, text: str, limit: int) -> None:
    answer = best_sentences(question, text, limit=limit)
    assert bool(answer) == bool(text.strip())
    assert "".join(answer.split()) in "".join(text.split())
