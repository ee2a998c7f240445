"""The catalogue of every text a customer can see, in Chinese and English."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from string import Formatter
from types import MappingProxyType
from typing import Any, Literal, get_args

from bot.config_errors import nearest
from bot.errors import ConfigError
from bot.yaml_source import load_yaml

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_FILE = "messages.yaml"
_CJK = re.compile(
    "[\u2e80-\u30ff\u3105-\u312f\u31a0-\u31bf\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
_NO_SENTENCE = re.compile(r"(?:^|(?<=\s))[/@]\S+|https?://\S+")
_LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str, default: Language = "zh") -> Language:
    """The language to answer a text in: Chinese with any CJK character, else English.

    A text that says neither (digits, emoji, a bare /command, a link) gives `default`.
    """
    if _CJK.search(text):
        return "zh"
    return "en" if _LETTER.search(_NO_SENTENCE.sub(" ", text)) else default


class Catalogue:
    """Texts by key and language, immutable; the caller keeps it, nothing here is global."""

    __slots__ = ("_texts",)

    def __init__(self, texts: Mapping[str, Mapping[Language, str]]) -> None:
        self._texts = MappingProxyType(dict(texts))

    @classmethod
    def load(cls, overrides: Mapping[str, Mapping[Any, str] | str] | None = None) -> Catalogue:
        """The shipped texts with the operator's own on top; a plain string stands for both languages.

        Raises ConfigError, its `key` being `messages.KEY` or `messages.KEY.LANGUAGE`, for an unknown key or
        language, an empty text, and a text whose placeholders are not those of the one it replaces.
        """
        texts = _shipped()
        for key, given in (overrides or {}).items():
            if key not in texts:
                raise ConfigError("unknown message", key=f"messages.{key}", remedy=nearest(key, texts))
            texts[key] = texts[key] | _override(key, given, texts[key])
        return cls(texts)

    def __contains__(self, key: object) -> bool:
        return key in self._texts

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the file's order."""
        return tuple(self._texts)

    def text(self, key: str, language: str, /, **fields: object) -> str:
        """The text of `key` with its placeholders filled.

        `language` may be any tag, such as `zh-hans` or `pt-br`: Chinese ones get Chinese, all others English.
        Raises KeyError for an unknown key, and for a field that the text has and the call lacks.
        """
        return self._template(key, language).format_map(fields)

    def section(self, prefix: str, language: str) -> dict[str, str]:
        """Every text below `prefix.` by the rest of its key, placeholders left in; a page takes it along."""
        start = f"{prefix}."
        return {
            key.removeprefix(start): self._template(key, language)
            for key in self._texts
            if key.startswith(start)
        }

    def _template(self, key: str, language: str) -> str:
        return self._texts[key]["zh" if language.lower().startswith("zh") else "en"]


def _shipped() -> dict[str, dict[Language, str]]:
    with resources.as_file(resources.files("bot").joinpath(_FILE)) as file:
        source = load_yaml(file, {})
    return {key: _complete(key, value) for key, value in source.data.items()}


def _complete(key: str, value: Any) -> dict[Language, str]:
    """One shipped text, checked: both languages, no other, the same placeholders."""
    if not isinstance(value, dict) or set(value) != set(LANGUAGES):
        raise ConfigError("needs exactly zh and en", key=f"{_FILE}: {key}")
    fields = {
        language: _placeholders(value[language], f"{_FILE}: {key}.{language}") for language in LANGUAGES
    }
    if fields["zh"] != fields["en"]:
        raise ConfigError("zh and en have different placeholders", key=f"{_FILE}: {key}")
    return {language: value[language] for language in LANGUAGES}


def _override(
    key: str, given: Mapping[Any, str] | str, shipped: Mapping[Language, str]
) -> dict[Language, str]:
    """The operator's texts for one key, checked against the shipped ones."""
    by_language: Mapping[Any, Any]
    if isinstance(given, str):
        by_language = dict.fromkeys(LANGUAGES, given)
    elif isinstance(given, Mapping):
        by_language = given
    else:
        raise ConfigError(
            "not a text", key=f"messages.{key}", remedy="write one text, or one below zh and one below en"
        )
    texts: dict[Language, str] = {}
    for language, text in by_language.items():
        place = f"messages.{key}.{language}"
        if language not in LANGUAGES:
            raise ConfigError("unknown language", key=place, remedy="write zh or en")
        wanted = _placeholders(shipped[language], place)
        found = _placeholders(text, place)
        if wanted - found:
            names = ", ".join(f"{{{name}}}" for name in sorted(wanted - found))
            raise ConfigError(f"the placeholder {names} is missing", key=place, remedy="put it into the text")
        if found - wanted:
            names = ", ".join(f"{{{name}}}" for name in sorted(found - wanted))
            remedy = nearest(min(found - wanted), wanted) if wanted else "write {{ and }} for plain braces"
            raise ConfigError(f"unknown placeholder {names}", key=place, remedy=remedy)
        texts[language] = text
    return texts


def _placeholders(text: Any, place: str) -> frozenset[str]:
    """The names in a text's `{name}` fields; only plain names are let through."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            "the text is empty or no text", key=place, remedy="write a text, in quotes if need be"
        )
    try:
        parts = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise ConfigError(
            f"broken placeholder: {error}", key=place, remedy="write {{ and }} for plain braces"
        ) from error
    for name, spec, conversion in parts:
        if not (name or "").isidentifier() or spec or conversion:
            raise ConfigError(
                f"{{{name}}} is no plain placeholder", key=place, remedy="write {{ and }} for plain braces"
            )
    return frozenset(str(name) for name, _, _ in parts)
