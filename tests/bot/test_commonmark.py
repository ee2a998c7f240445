"""Reading CommonMark; what of it is shown is tested with each connector's own format."""

from __future__ import annotations

import time

import pytest

from bot.commonmark import Run, runs


def test_each_run_has_all_its_styles() -> None:
    bold, code = ("bold", ""), ("code", "")
    link, quote, heading = ("link", "https://x.cn"), ("quote", ""), ("heading", "2")
    expected: list[Run] = [
        ("a ", frozenset({quote, heading})),
        ("b ", frozenset({quote, heading, link, bold})),
        ("c", frozenset({quote, heading, link, bold, code})),
        ("\n", frozenset({quote})),
        ("x", frozenset({quote, ("pre", "py")})),
        ("\n", frozenset()),
        ("+ d", frozenset()),
        ("\n", frozenset()),
        ("--", frozenset()),
        ("\n", frozenset()),
    ]
    text = "> ## a [**b `c`**](https://x.cn)\n> ```py\n> x\n> ```\n- d\n***"
    assert list(runs(text, bullet="+ ", rule="--")) == expected


@pytest.mark.parametrize(
    "hostile",
    [
        "*" * 20_000,
        "*a " * 6_667,
        "*a" * 199 + "\\." * 9_600 + "b*" * 199,
        "*" * 6_000 + "\\." * 4_000 + "*" * 6_000,
        "*a_b" * 100 + "\\." * 9_700 + "_*" * 99,
        "[" * 20_000,
        "[a\\]" * 5_000,
        "[a](http://" * 1_800,
        "[x](" + " " * 20_000,
        "- *\n" * 5_000,
        "> " * 10_000,
        "```\n~~~\n" * 2_500,
        "".join("`" * run + " " for run in range(1, 199)),
        "&" * 20_000,
    ],
)
def test_time_grows_with_the_length_only(hostile: str) -> None:
    """The quickest of three, which other programs on the machine disturb least."""
    took = []
    for _ in range(3):
        started = time.perf_counter()
        assert "".join(text for text, _ in runs(hostile))
        took.append(time.perf_counter() - started)
    assert min(took) < 0.5  # quadratic reading takes seconds
