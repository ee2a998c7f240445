"""Stop strings over text that comes in pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from model.stop import StopStrings

LETTERS = st.text("ab", max_size=30)


@example(pieces=["ab", "ab"], strings=["abab", "b"])
@given(pieces=st.lists(LETTERS), strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_passes_is_the_text_before_the_stop_string_that_is_complete_first(
    pieces: list[str], strings: list[str]
) -> None:
    stop = StopStrings(strings)
    passed = "".join(stop.push(piece) for piece in pieces)
    whole = "".join(pieces)
    found = [(whole.find(string) + len(string), whole.find(string)) for string in strings if string in whole]
    assert stop.reached == bool(found)
    assert passed + stop.end() == (whole[: min(found)[1]] if found else whole)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["\n问："])
    assert stop.push("好的。\n") == "好的。"
    assert stop.push("下一行") == "\n下一行"


def test_no_stop_strings_hold_nothing_back() -> None:
    assert StopStrings(["", ""]).push("abc") == "abc"
