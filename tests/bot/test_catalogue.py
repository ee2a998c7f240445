"""The catalogue: complete in both languages, overridable, strict about what overrides it."""

from __future__ import annotations

from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.catalogue import LANGUAGES, Catalogue, language_of
from bot.errors import ConfigError

# what other parts of the bot ask for by name, and the fields they hand over
PROMISED = {
    "contact": set(),
    "start": set(),
    "unknown": {"contact"},
    "did_you_mean": {"options"},
    "sources": set(),
    "feedback_up": set(),
    "feedback_down": set(),
    "feedback_thanks": set(),
    "feedback_down_reply": {"contact"},
    "help_intro": set(),
    "help_command": {"name", "help"},
    "help_more": {"contact"},
    "cleared": set(),
    "nothing_to_clear": set(),
    "unknown_command": {"command"},
    "denied": set(),
    "cooldown": set(),
    "ask_timeout": set(),
    "ask_cancelled_restart": set(),
    "error": set(),
    "busy": {"seconds"},
    "rate_limited": {"seconds"},
    "group_limited": {"seconds"},
    "too_long": {"limit"},
    "unsupported": set(),
    "model_offline": set(),
    "interrupted": set(),
    "stream_later": set(),
    "handoff_staff": {"user", "chat", "channel", "reason", "question", "number"},
    "handoff_message": {"number", "user", "text"},
    "handoff_list_item": {"number", "channel", "user", "state", "minutes", "question"},
    "handoff_reply": {"text"},
    "handoff_reply_group": {"user", "text"},
    "handoff_position": {"position", "minutes"},
    "handoff_away": {"when"},
    "handoff_due": {"number", "user", "minutes", "question"},
    "web.title": set(),
    "web.placeholder": set(),
    "web.send": set(),
    "web.too_long": {"limit"},
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load()


def fields_of(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def templates(catalogue: Catalogue, key: str) -> list[str]:
    """A text in both languages with every placeholder put back in its place."""
    back = {name: f"{{{name}}}" for name in ("contact", "options", "number", "question", "text", "title")}
    back |= {name: f"{{{name}}}" for name in ("name", "help", "command", "nearest", "seconds", "limit")}
    back |= {name: f"{{{name}}}" for name in ("user", "chat", "channel", "minutes")}
    back |= {name: f"{{{name}}}" for name in ("agent", "position", "reason", "state", "when", "transcript")}
    back |= {name: f"{{{name}}}" for name in ("numbers", "sources", "percent", "answer")}
    back |= {name: f"{{{name}}}" for name in ("month", "date", "day", "time")}
    back |= {
        name: f"{{{name}}}" for name in ("after", "before", "by", "count", "down", "escalated", "faq", "id")
    }
    back |= {
        name: f"{{{name}}}"
        for name in ("mean", "median", "more", "ninety", "problem", "questions", "rate", "share")
    }
    back |= {name: f"{{{name}}}" for name in ("source", "up")}
    return [catalogue.text(key, language, **back) for language in LANGUAGES]


def test_every_text_stands_in_both_languages_with_the_same_placeholders(catalogue: Catalogue) -> None:
    for key in catalogue.keys:
        chinese, english = templates(catalogue, key)
        assert fields_of(chinese) == fields_of(english), key
        assert english.isascii() or language_of(english) == "en", key
        if chinese != english:
            assert language_of(chinese) == "zh", key


@pytest.mark.parametrize(("key", "fields"), PROMISED.items(), ids=PROMISED)
def test_promised_texts_take_the_promised_fields(catalogue: Catalogue, key: str, fields: set[str]) -> None:
    for template in templates(catalogue, key):
        assert fields_of(template) == fields


def test_texts_fit_where_they_are_shown(catalogue: Catalogue) -> None:
    for key in catalogue.keys:
        for text in templates(catalogue, key):
            assert text == text.strip(), key
            assert len(text) <= 200, key
    for key in ("feedback_up", "feedback_down", "web.send", "web.retry"):
        assert all(len(text) <= 20 for text in templates(catalogue, key)), key


def test_fields_are_filled_and_never_read_as_templates(catalogue: Catalogue) -> None:
    assert "{seconds}" in catalogue.text("unknown", "zh", contact="{seconds}")
    assert "12" in catalogue.text("busy", "en", seconds=12, unused=1)


def test_any_chinese_tag_is_chinese_and_any_other_english(catalogue: Catalogue) -> None:
    chinese, english = templates(catalogue, "error")
    assert all(catalogue.text("error", tag) == chinese for tag in ("zh", "zh-hans", "zh_TW", "ZH"))
    assert all(catalogue.text("error", tag) == english for tag in ("en", "en-GB", "pt-br", ""))


def test_unknown_key_or_missing_field_is_a_programming_error(catalogue: Catalogue) -> None:
    with pytest.raises(KeyError):
        catalogue.text("no_such_text", "zh")
    with pytest.raises(KeyError):
        catalogue.text("busy", "zh")


def test_keys_are_countable_and_findable(catalogue: Catalogue) -> None:
    assert set(PROMISED) <= set(catalogue.keys)
    assert "error" in catalogue
    assert "no_such_text" not in catalogue


def test_a_section_carries_a_pages_texts(catalogue: Catalogue) -> None:
    page = catalogue.section("web", "en")
    assert page["send"] == catalogue.text("web.send", "en")
    assert "{limit}" in page["too_long"]
    assert len(page) == sum(key.startswith("web.") for key in catalogue.keys)


# -- overrides ------------------------------------------------------------------------------


def test_an_override_replaces_one_text_in_one_language(catalogue: Catalogue) -> None:
    changed = Catalogue.load({"error": {"zh": "出错了，稍等一下。"}})
    assert changed.text("error", "zh") == "出错了，稍等一下。"
    assert changed.text("error", "en") == catalogue.text("error", "en")
    assert catalogue.text("error", "zh") != "出错了，稍等一下。"


def test_a_plain_string_overrides_both_languages() -> None:
    changed = Catalogue.load({"busy": "Hold on / 请稍候 ({seconds} s)"})
    assert changed.text("busy", "zh", seconds=3) == changed.text("busy", "en", seconds=3)


def test_doubled_braces_stand_for_braces() -> None:
    assert Catalogue.load({"error": "{{x}}"}).text("error", "zh") == "{x}"


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        ({"unkown": "?"}, "messages.unkown", "did you mean 'unknown'"),
        ({"busy": {"zh": "忙"}}, "messages.busy.zh", "{seconds}"),
        ({"busy": "{seconds} {second}"}, "messages.busy.zh", "did you mean 'seconds'"),
        ({"error": "{oops}"}, "messages.error.zh", "{oops}"),
        ({"error": {"fr": "Pardon"}}, "messages.error.fr", "zh or en"),
        ({"error": {"en": "  "}}, "messages.error.en", "empty"),
        ({"error": {"en": None}}, "messages.error.en", "empty"),
        ({"error": 3}, "messages.error", "not a text"),
        ({"error": "a { b"}, "messages.error.zh", "{{"),
        ({"error": "{}"}, "messages.error.zh", "plain placeholder"),
        ({"busy": "{seconds.__class__}"}, "messages.busy.zh", "plain placeholder"),
        ({"busy": "{seconds:>9}"}, "messages.busy.zh", "plain placeholder"),
        ({"busy": "{seconds!r}"}, "messages.busy.zh", "plain placeholder"),
    ],
)
def test_a_wrong_override_names_its_key_and_the_remedy(overrides: Any, key: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalogue.load(overrides)
    assert caught.value.key == key
    assert caught.value.remedy
    assert told in str(caught.value)


@given(st.text(max_size=40))
def test_any_override_is_taken_whole_or_refused_clearly(text: str) -> None:
    try:
        changed = Catalogue.load({"error": text})
    except ConfigError:
        return
    assert changed.text("error", "zh") == text.replace("{{", "{").replace("}}", "}")


# -- the language of a message ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("运费多少", "zh"),
        ("運費多少", "zh"),
        ("iPhone 能用吗", "zh"),
        ("How much is shipping?", "en"),
        ("Où est mon colis", "en"),
        ("see https://shop.example/a please", "en"),
        ("/报修", "zh"),
        ("𠮷", "zh"),
        ("？", "zh"),
    ],
)
def test_the_language_of_a_message(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "42", "👍", "/help", "@shop_bot", "https://shop.example/a"])
def test_what_says_no_language_gives_the_default(text: str) -> None:
    assert language_of(text) == "zh"
    assert language_of(text, "en") == "en"


@given(st.text())
def test_every_text_has_a_language(text: str) -> None:
    assert language_of(text) in LANGUAGES
    assert language_of(text + "好") == "zh"
