"""A streamed text is what it would be as a whole, and nothing of a word is ever shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugins.moderation.lexicon import Lexicon, masked
from plugins.moderation.streaming import StreamFilter
from plugins.moderation.words import Word

WORDS = st.lists(
    st.one_of(
        st.text("天地玄", min_size=1, max_size=4),
        st.text("ab", min_size=1, max_size=4),
        st.sampled_from(["天ab", "a地", "ab a", "天a地"]),
    ),
    min_size=1,
    max_size=5,
)
TEXT = st.text("天地玄黄abc -*，,\u200b", max_size=40)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    pieces = []
    for cut in cuts:
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


CUTS = st.lists(st.integers(0, 5), max_size=12)


@given(WORDS, TEXT, CUTS)
def test_a_stream_is_masked_as_the_whole_text_is(words: list[str], text: str, cuts: list[int]) -> None:
    lexicon = Lexicon([Word(word, "mask") for word in words])
    stream = StreamFilter(lexicon)
    out = [stream.push(piece) for piece in pieces_of(text, cuts)]
    out.append(stream.end())
    assert "".join(out) == masked(text, lexicon.hits(text))
    assert stream.found == bool(lexicon.hits(text))


@given(WORDS, WORDS, TEXT, CUTS)
def test_a_stream_ends_before_a_blocked_word(
    words: list[str], others: list[str], text: str, cuts: list[int]
) -> None:
    lexicon = Lexicon([*(Word(word, "block") for word in words), *(Word(word, "mask") for word in others)])
    stream = StreamFilter(lexicon)
    shown = "".join([*map(stream.push, pieces_of(text, cuts)), stream.end()])
    blocked = [hit.start for hit in lexicon.hits(text) if hit.word.action == "block"]
    if not blocked:
        assert stream.stopped is None
        assert shown == masked(text, lexicon.hits(text))
        return
    assert stream.stopped is not None
    assert len(shown) in blocked
    whole = masked(text, lexicon.hits(text))
    assert all(char in ("*", old) for char, old in zip(shown, whole, strict=False))
    assert stream.push("more") == stream.end() == ""


def test_what_cannot_begin_a_word_is_shown_at_once() -> None:
    stream = StreamFilter(Lexicon([Word("敏感词", "mask"), Word("bad", "mask")]))
    assert [stream.push(piece) for piece in ("今天", "天气", "敏", "锐", "，b", "e", "a", "d。")] == [
        "今天",
        "天气",
        "",
        "敏锐",
        "，",
        "be",
        "a",
        "d。",
    ]
    assert stream.push("敏 感") == ""
    assert stream.end() == "敏 感"
    assert not stream.found


def test_a_word_is_hidden_however_it_is_cut() -> None:
    text = "好的，敏 感-词 and b a d。"
    for size in range(1, 12):
        stream = StreamFilter(Lexicon([Word("敏感词", "mask"), Word("bad", "mask")]))
        out = [stream.push(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join([*out, stream.end()]) == "好的，***** and *****。"


def test_a_long_word_of_letters_is_not_held_back() -> None:
    stream = StreamFilter(Lexicon([Word("bad", "mask")]))
    assert stream.push("x" * 5000) == "x" * 5000
    assert stream.push("bad") == "bad"
    assert stream.push(" bad ") == " *** "
