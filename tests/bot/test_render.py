"""Splitting: no part over the limit, nothing lost, nothing cut in two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.render import measure, split_text

UNITS = st.sampled_from(["characters", "utf16", "bytes"])
TEXTS = st.text(alphabet=st.sampled_from("ab 。，.!\n问题😀👍🏽\u200d"), max_size=400)


@given(TEXTS, UNITS, st.integers(16, 120), st.booleans())
def test_no_part_is_over_the_limit_and_no_visible_character_is_lost(
    text: str, unit: str, limit: int, markdown: bool
) -> None:
    parts = split_text(text, limit, unit, markdown=markdown)
    assert all(measure(part, unit) <= limit for part in parts)
    assert all(part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@given(st.text(max_size=300), UNITS, st.integers(16, 64))
def test_any_text_can_be_split(text: str, unit: str, limit: int) -> None:
    assert all(measure(part, unit) <= limit for part in split_text(text, limit, unit))


def test_a_short_text_is_one_part() -> None:
    assert split_text(" 您好。 ", 16) == ["您好。"]


def test_a_blank_text_has_no_parts() -> None:
    assert split_text(" \n ", 16) == []


def test_paragraphs_are_kept_together_where_they_fit() -> None:
    assert split_text("one one one\n\ntwo two two", 18) == ["one one one", "two two two"]


def test_sentences_are_kept_together_where_they_fit() -> None:
    assert split_text("一二三四五六七。八九十一二三四五六七八九。", 17) == [
        "一二三四五六七。",
        "八九十一二三四五六七八九。",
    ]


def test_bytes_are_cut_between_characters() -> None:
    assert split_text("问" * 10, 16, "bytes") == ["问" * 5, "问" * 5]


def test_a_joined_emoji_stays_whole() -> None:
    family = "👨\u200d👩\u200d👧"
    assert split_text("x" * 14 + family, 18, "utf16")[-1].endswith(family)


def test_a_cut_code_fence_is_closed_and_opened_again() -> None:
    code = "```python\n" + "\n".join(f"line {n}" for n in range(20)) + "\n```"
    parts = split_text(code, 80, markdown=True)
    assert len(parts) > 1
    for part in parts:
        assert part.startswith("```python\n")
        assert part.endswith("```")
        assert part.count("```") == 2
    assert sum(part.count("line") for part in parts) == 20


def test_a_limit_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        split_text("text", 3)
