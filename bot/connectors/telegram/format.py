"""From CommonMark to the text and entities of a Telegram message. Offsets and lengths count UTF-16 units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bot.commonmark import Run, Style, runs
from bot.render import measure

MAX_ENTITIES = 100
_ENTITIES = {"link": "text_link", "quote": "blockquote"}  # where Telegram has another name for a style
_WITH_CODE = ("code", "pre", "quote")  # code takes no other style [Bot API, MessageEntity]


@dataclass(frozen=True, slots=True)
class Formatted:
    """A message's text and its `entities`."""

    text: str
    entities: list[dict[str, Any]] = field(default_factory=list)


def formatted(markdown: str) -> Formatted:
    """Read CommonMark. A text that would come out blank stays as it was written."""
    pieces = [(piece, _entity_styles(styles)) for piece, styles in runs(markdown)]
    text = "".join(piece for piece, _ in pieces)
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= end:
        return Formatted(markdown.strip())
    return Formatted(text[start:end], _entities(_cropped(pieces, start, end)))


def _entity_styles(styles: frozenset[Style]) -> frozenset[Style]:
    """The same by Telegram's names, as far as it shows them together."""
    if any(kind in ("code", "pre") for kind, _ in styles):
        styles = frozenset(style for style in styles if style[0] in _WITH_CODE)
    return frozenset(
        ("bold", "") if kind == "heading" else (_ENTITIES.get(kind, kind), detail) for kind, detail in styles
    )


def _cropped(pieces: list[Run], start: int, end: int) -> Iterator[Run]:
    position = 0
    for text, styles in pieces:
        piece = text[max(0, start - position) : max(0, end - position)]
        if piece:
            yield piece, styles
        position += len(text)


def _entities(pieces: Iterator[Run]) -> list[dict[str, Any]]:
    """One entity for each unbroken stretch of a style, outer ones before inner ones."""
    open_since: dict[Style, int] = {}
    found: list[tuple[int, int, Style]] = []
    position = 0
    for text, styles in (*pieces, ("", frozenset[Style]())):
        for style in [style for style in open_since if style not in styles]:
            start = open_since.pop(style)
            found.append((start, position - start, style))
        for style in styles:
            open_since.setdefault(style, position)
        position += measure(text, "utf16")
    found.sort(key=lambda item: (item[0], -item[1], item[2]))
    return [_entity(*item) for item in found[:MAX_ENTITIES]]


def _entity(offset: int, length: int, style: Style) -> dict[str, Any]:
    kind, detail = style
    entity: dict[str, Any] = {"type": kind, "offset": offset, "length": length}
    if detail:
        entity["url" if kind == "text_link" else "language"] = detail
    return entity
