"""CommonMark to text and entities."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.telegram.format import formatted
from bot.render import measure


def styles(markdown: str) -> tuple[str, list[tuple[str, str]]]:
    """(text, [(entity type, the text under it)])."""
    shown = formatted(markdown)
    data = shown.text.encode("utf-16-le")
    under = [
        (item["type"], data[2 * item["offset"] : 2 * (item["offset"] + item["length"])].decode("utf-16-le"))
        for item in shown.entities
    ]
    return shown.text, under


@pytest.mark.parametrize(
    ("markdown", "text", "under"),
    [
        ("**bold** and *it*", "bold and it", [("bold", "bold"), ("italic", "it")]),
        ("😀 **粗体**", "😀 粗体", [("bold", "粗体")]),
        ("***both***", "both", [("bold", "both"), ("italic", "both")]),
        ("**a *b* c**", "a b c", [("bold", "a b c"), ("italic", "b")]),
        ("**“重点”**是", "“重点”是", [("bold", "“重点”")]),
        ("~~old~~ new", "old new", [("strikethrough", "old")]),
        ("run `a*b*c` now", "run a*b*c now", [("code", "a*b*c")]),
        ("**a `b` c**", "a b c", [("bold", "a "), ("code", "b"), ("bold", " c")]),
        ("# Title #\ntext", "Title\ntext", [("bold", "Title")]),
        ("- one\n* two\n  + three", "• one\n• two\n  • three", []),
        ("1. **one**\n2. two", "1. one\n2. two", [("bold", "one")]),
        (
            "> quoted `c`\n> more\n\nown",
            "quoted c\nmore\n\nown",
            [("blockquote", "quoted c\nmore"), ("code", "c")],
        ),
        ("[our *shop*](https://x.cn/a_(b))", "our shop", [("text_link", "our shop"), ("italic", "shop")]),
        ("**a\nb**", "a\nb", [("bold", "a\nb")]),
        ("\\*plain\\*", "*plain*", []),
        ("&lt;b&gt; a&copy=1", "<b> a&copy=1", []),
    ],
)
def test_what_answers_use_is_shown(markdown: str, text: str, under: list[tuple[str, str]]) -> None:
    assert styles(markdown) == (text, under)


@pytest.mark.parametrize(
    "markdown",
    [
        "2 * 3 * 4",
        "snake_case_name",
        "**not closed",
        "[x](javascript:alert)",
        "`not closed",
        "https://x.cn/a_b_c?d=*",
        "_*[]()~`>#+-=|{}.!\\ <b> %s {0} ```",
        "| a | b |\n|---|---|",
    ],
)
def test_what_is_no_markup_stays(markdown: str) -> None:
    assert formatted(markdown).text == markdown


def test_code_blocks_keep_their_language_and_text() -> None:
    shown = formatted("before\n```py\nif a:\n    b = '**'\n```\nafter")
    assert shown.text == "before\nif a:\n    b = '**'\nafter"
    assert shown.entities == [{"type": "pre", "offset": 7, "length": 18, "language": "py"}]


def test_an_open_code_block_reaches_to_the_end() -> None:
    assert styles("```\ncode") == ("code", [("pre", "code")])


@pytest.mark.parametrize("markdown", ["```", "&#32;", "> "])
def test_what_would_come_out_blank_stays_as_written(markdown: str) -> None:
    assert formatted(markdown).text == markdown.strip()


MARKUP = st.lists(
    st.sampled_from(
        ["*", "**", "_", "~~", "`", "``", "```\n", "[", "](https://x.cn)", "> ", "# ", "- ", "\n", " ", "\\"]
    )
    | st.sampled_from(["a", "b c", "😀", "中文", "&amp;", "https://x.cn", "。"])
    | st.text(max_size=3),
    max_size=40,
).map("".join)


@given(MARKUP)
def test_entities_lie_within_the_text_and_nest(markdown: str) -> None:
    shown = formatted(markdown)
    assert shown.text == shown.text.strip()
    length = measure(shown.text, "utf16")
    assert length <= max(measure(markdown, "utf16"), 1)
    spans = [(item["offset"], item["offset"] + item["length"], item["type"]) for item in shown.entities]
    assert all(0 <= start < end <= length for start, end, _ in spans)
    for index, (start, end, kind) in enumerate(spans):
        for other_start, other_end, other in spans[index + 1 :]:
            apart = other_start >= end
            assert apart or (start <= other_start and other_end <= end)
            if not apart and (kind in ("code", "pre") or other in ("code", "pre")):
                assert "blockquote" in (kind, other)


@given(MARKUP)
def test_entities_never_cut_a_character(markdown: str) -> None:
    shown = formatted(markdown)
    data = shown.text.encode("utf-16-le", "surrogatepass")
    edges = {0, len(data)} | {
        2 * edge for item in shown.entities for edge in (item["offset"], item["offset"] + item["length"])
    }
    for start, end in pairwise(sorted(edges)):
        assert data[start:end].decode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 4096,
        "[a" * 2000,
        "`" * 4096,
        "*a " * 1300,
        "*a" * 199 + "b*" * 199,
        ">" * 4096,
        ">  > " * 800,
        "# " + " " * 4000 + "x",
        "```" + "a" * 4000 + "`",
        "- " * 2000 + "x",
        "[a](http://" * 350,
        "\\a" * 2000,
        "".join("`" * run + " " for run in range(1, 89)),
    ],
)
def test_hostile_texts_are_read(hostile: str) -> None:
    assert formatted(hostile).text
