"""Routing: what is looked up for which text, in which order, at a cost that does not grow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.message import Chat, Message, User
from bot.plugin import Plugin
from bot.router import Router, required_literal, split_command


def message(text: str, *, to_me: bool = True, event: str = "") -> Message:
    return Message("test", "bot", "d1", Chat("c", group=True), User("u"), text, to_me=to_me, event=event)


def names(router: Router, text: str, **fields: object) -> list[str]:
    return [c.handler.function.__name__ for c in router.route(message(text, **fields))]


@pytest.fixture
def router() -> Router:
    plugin = Plugin("p")

    @plugin.message(priority=80)
    def last() -> None: ...

    @plugin.message(priority=20)
    def first() -> None: ...

    @plugin.message(priority=90, overhear=True)
    def eavesdropper() -> None: ...

    @plugin.command("repair", "报修")
    def repair() -> None: ...

    @plugin.keyword("发票", "Invoice", priority=60)
    def invoice() -> None: ...

    @plugin.keyword("票", priority=10)
    def ticket() -> None: ...

    @plugin.regex(r"订单\s*(\d+)")
    def order() -> None: ...

    @plugin.regex(r"[a-f]+", priority=40)
    def letters() -> None: ...

    @plugin.event("feedback")
    def feedback() -> None: ...

    return Router(plugin.handlers)


def test_a_command_comes_before_everything_else(router: Router) -> None:
    assert names(router, "/报修 发票")[0] == "repair"
    assert names(router, "/REPAIR")[0] == "repair"
    assert names(router, "／报修")[0] == "repair"


def test_arguments_of_a_command_are_the_rest_of_the_line(router: Router) -> None:
    candidate = next(iter(router.route(message("/repair  room 12\nleak"))))
    assert candidate.args == "room 12\nleak"


def test_an_unknown_command_is_text_like_any_other(router: Router) -> None:
    assert names(router, "/无此命令") == ["first", "last", "eavesdropper"]
    assert not router.knows_command("/无此命令")
    assert router.knows_command("/报修 now")


def test_keywords_then_regexes_then_catch_alls_each_by_priority(router: Router) -> None:
    assert names(router, "开发票 订单 7 abc") == [
        "ticket",
        "invoice",
        "letters",
        "order",
        "first",
        "last",
        "eavesdropper",
    ]


def test_keywords_ignore_letter_case(router: Router) -> None:
    assert "invoice" in names(router, "my INVOICE please")


def test_a_regex_hands_over_its_match(router: Router) -> None:
    found = [c.match for c in router.route(message("订单 77")) if c.match]
    assert found[0][1] == "77"


def test_what_is_not_for_the_bot_reaches_only_those_who_overhear(router: Router) -> None:
    assert names(router, "开发票 /报修", to_me=False) == ["eavesdropper"]


def test_an_event_reaches_its_handlers_only(router: Router) -> None:
    assert names(router, "", event="feedback") == ["feedback"]
    assert names(router, "", event="unknown") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/help", ("help", "")),
        ("/help me now", ("help", "me now")),
        ("/", None),
        ("help", None),
        ("/ help", None),
        ("/a\nb", ("a", "b")),
        ("/报修　302", ("报修", "302")),
        ("/help\tme", ("help", "me")),
    ],
)
def test_split_command(text: str, expected: tuple[str, str] | None) -> None:
    assert split_command(text) == expected


PIECES = st.sampled_from(
    [
        "ab",
        "订单",
        "x?",
        "y*",
        "(cd|e)",
        "[a-z]",
        r"\d+",
        "z{0,2}",
        "i",
        "S",
        ".",
        r"\.",
        "(?:q|w)",
        "ß",
        "K+",
        "^",
        "$",
    ]
)


@given(
    st.lists(PIECES, min_size=1, max_size=5),
    st.text(alphabet="abcdexyzqw订单0iıİsSſkKK.ßs", max_size=12),
    st.booleans(),
)
def test_every_match_contains_the_required_literal(pieces: list[str], text: str, folds: bool) -> None:
    pattern = re.compile("".join(pieces), re.IGNORECASE if folds else re.NOFLAG)
    found = pattern.search(text)
    if found:
        assert required_literal(pattern).casefold() in text.casefold()


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        (r"订单\s*(\d+)", "订单"),
        ("a|b", ""),
        ("(a|b)cd", "cd"),
        ("abc?d", "ab"),
        (r"(?i)abc", ""),
        ("[abc]", ""),
    ],
)
def test_required_literal(pattern: str, literal: str) -> None:
    assert required_literal(re.compile(pattern)) == literal
