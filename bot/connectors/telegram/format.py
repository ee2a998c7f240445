"""From CommonMark to the text and entities of a Telegram message.

Read is what answers use: emphasis, strikethrough, code, links, headings, lists, quotes and rules. Whatever
else there is stays as it was written, so nothing is lost. Offsets and lengths count UTF-16 units.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bot.render import measure

MAX_ENTITIES = 100
_MAX_DELIMITERS = 400  # pairing is quadratic, and Telegram shows no more than 100 entities anyway

Style = tuple[str, str]
"""An entity's type and its URL or language, "" where it has none."""
Run = tuple[str, frozenset[Style]]
"""A piece of text with all its styles."""

_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)[^`]*+")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t](.*)")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
_BULLET = re.compile(r"^([ \t]*)[-*+][ \t]+(?=\S)")
_QUOTE = re.compile(r"(?: {0,3}> ?)+")  # all levels at once: Telegram's quotes do not nest
_TOKEN = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<ticks>`+)"
    r"|(?P<reference>&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)"
    r"|<(?P<autolink>https?://[^\s<>]{1,1000})>"
    r"|!?\[(?P<label>(?:[^\[\]\\\n]|\\.|\[[^\[\]\n]{0,100}\]){1,500})\]"
    r"\([ \t]*<?(?P<url>(?:https?://|tg://|mailto:)(?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,1000})>?"
    r"(?:[ \t]+(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'))?[ \t]*\)"
    r"|(?P<bare>https?://[^\s*<>()\[\]`~]{1,1000})"
    r"|(?P<delimiter>\*+|_+|~~)"
)


@dataclass(frozen=True, slots=True)
class Formatted:
    """A message's text and its `entities`."""

    text: str
    entities: list[dict[str, Any]] = field(default_factory=list)


def formatted(markdown: str) -> Formatted:
    """Read CommonMark. A text that would come out blank stays as it was written."""
    runs = list(_blocks(markdown.replace("\r\n", "\n").split("\n")))
    text = "".join(piece for piece, _ in runs)
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= end:
        return Formatted(markdown.strip())
    return Formatted(text[start:end], _entities(_cropped(runs, start, end)))


def _cropped(runs: list[Run], start: int, end: int) -> Iterator[Run]:
    position = 0
    for text, styles in runs:
        piece = text[max(0, start - position) : max(0, end - position)]
        if piece:
            yield piece, styles
        position += len(text)


def _entities(runs: Iterator[Run]) -> list[dict[str, Any]]:
    """One entity for each unbroken stretch of a style, outer ones before inner ones."""
    open_since: dict[Style, int] = {}
    found: list[tuple[int, int, Style]] = []
    position = 0
    for text, styles in (*runs, ("", frozenset[Style]())):
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


# -- blocks ---------------------------------------------------------------------------------


def _blocks(lines: list[str]) -> Iterator[Run]:
    """The runs of some lines, with a line break after each."""
    index = 0
    while index < len(lines):
        line = lines[index]
        fence = _FENCE.fullmatch(line)
        if fence:
            end = _fence_end(lines, index, fence[1])
            code = "\n".join(lines[index + 1 : end])
            yield code, frozenset({("pre", fence[2])})
            yield "\n", frozenset()
            index = end + 1
        elif _QUOTE.match(line):
            end = index
            while end < len(lines) and _QUOTE.match(lines[end]):
                end += 1
            *quoted, _ = _blocks([_QUOTE.sub("", line, count=1) for line in lines[index:end]])
            yield from ((text, styles | {("blockquote", "")}) for text, styles in quoted)
            yield "\n", frozenset()
            index = end
        else:
            heading = _HEADING.fullmatch(line)
            if heading:
                yield from _styled(_inline(_title(heading[1])), ("bold", ""))
                end = index + 1
            elif _RULE.fullmatch(line):
                yield "———", frozenset()
                end = index + 1
            else:
                end = _paragraph_end(lines, index)
                yield from _inline("\n".join(_shown(part) for part in lines[index:end]))
            yield "\n", frozenset()
            index = end


def _fence_end(lines: list[str], start: int, fence: str) -> int:
    """The index of the line that closes a code block, or behind the last line."""
    closing = re.compile(rf" {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*")
    for index in range(start + 1, len(lines)):
        if closing.fullmatch(lines[index]):
            return index
    return len(lines)


def _title(heading: str) -> str:
    """A heading without the # marks that may close it."""
    title = heading.strip()
    bare = title.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else title


def _paragraph_end(lines: list[str], start: int) -> int:
    """Behind the lines through which emphasis may reach: up to a blank line or another block."""
    end = start + 1
    while end < len(lines) and lines[start].strip() and lines[end].strip():
        line = lines[end]
        if _BULLET.match(line) or _QUOTE.match(line):
            break
        if _FENCE.fullmatch(line) or _HEADING.fullmatch(line) or _RULE.fullmatch(line):
            break
        end += 1
    return end


def _shown(line: str) -> str:
    """A line with a real bullet, and without the marks of a hard line break."""
    line = re.sub(r"(?<!\\)\\$", "", line.rstrip())
    return _BULLET.sub(r"\1• ", line, count=1)


def _is_code(styles: frozenset[Style]) -> bool:
    return any(kind in ("code", "pre") for kind, _ in styles)


def _styled(runs: Iterator[Run], style: Style) -> Iterator[Run]:
    """The same runs with one more style; code takes no other [Bot API, MessageEntity]."""
    for text, styles in runs:
        yield text, styles if _is_code(styles) else styles | {style}


# -- inside a line --------------------------------------------------------------------------


@dataclass(slots=True)
class _Piece:
    """A piece of a line; a delimiter run has `left` marks that are not used up."""

    text: str
    styles: set[Style] = field(default_factory=set)
    mark: str = ""
    left: int = 0
    opens: bool = False
    closes: bool = False


def _inline(text: str, *, links: bool = True) -> Iterator[Run]:
    pieces = list(_pieces(text, links))
    if sum(bool(piece.mark) for piece in pieces) <= _MAX_DELIMITERS:
        _pair(pieces)
    for piece in pieces:
        shown = piece.mark * piece.left if piece.mark else piece.text
        if shown:
            yield shown, frozenset(piece.styles)


def _pieces(text: str, links: bool) -> Iterator[_Piece]:
    position = 0
    while found := _TOKEN.search(text, position):
        if found.start() > position:
            yield _Piece(text[position : found.start()])
        position = found.end()
        match found.lastgroup:
            case "escaped" | "autolink" | "bare" as kind:
                yield _Piece(found[kind])
            case "reference":
                yield _Piece(html.unescape(found[0]))
            case "ticks":
                code = _code_span(text, found[0], position)
                yield _Piece(found[0]) if code is None else _Piece(code[0], {("code", "")})
                position = position if code is None else code[1]
            case "delimiter":
                yield _delimiter(text, found)
            case _ if links:
                link: Style = ("text_link", found["url"])
                for shown, styles in _styled(_inline(found["label"], links=False), link):
                    yield _Piece(shown, set(styles))
            case _:
                yield _Piece(found[0])
    if position < len(text):
        yield _Piece(text[position:])


def _code_span(text: str, ticks: str, start: int) -> tuple[str, int] | None:
    """(code, index behind its closing backticks), None when they are never closed."""
    closing = re.compile(rf"(?<!`){ticks}(?!`)").search(text, start)
    if closing is None:
        return None
    code = text[start : closing.start()].replace("\n", " ")
    if code.strip() and code[0] == code[-1] == " ":
        code = code[1:-1]
    return (code, closing.end()) if code else None


def _delimiter(text: str, found: re.Match[str]) -> _Piece:
    """A run of * _ or ~~ and whether it may open or close.

    Beside a blank it cannot. Unlike in CommonMark, punctuation does not matter to `*`: Chinese is written
    without blanks, and `**“重点”**是` is meant to be bold. `_` does nothing inside a word.
    """
    before = text[found.start() - 1 : found.start()] or " "
    after = text[found.end() : found.end() + 1] or " "
    mark = found[0][0]
    opens, closes = not after.isspace(), not before.isspace()
    if mark == "_":
        opens, closes = opens and not before.isalnum(), closes and not after.isalnum()
    return _Piece("", mark=mark, left=len(found[0]), opens=opens, closes=closes)


def _pair(pieces: list[_Piece]) -> None:
    """Match closing delimiters with the nearest opening ones before them, and style what lies between."""
    openers: list[int] = []
    for index, piece in enumerate(pieces):
        while piece.closes and piece.left:
            place = _opener(pieces, openers, piece)
            if place is None:
                break
            start = openers[place]
            opener = pieces[start]
            used = min(2, piece.left, opener.left)
            style = "strikethrough" if piece.mark == "~" else "bold" if used == 2 else "italic"
            for between in pieces[start + 1 : index]:
                if not _is_code(frozenset(between.styles)):
                    between.styles.add((style, ""))
            opener.left -= used
            piece.left -= used
            del openers[place + (1 if opener.left else 0) :]
        if piece.opens and piece.left:
            openers.append(index)


def _opener(pieces: list[_Piece], openers: list[int], closer: _Piece) -> int | None:
    """Where in `openers` the partner of a closing delimiter stands."""
    for place in range(len(openers) - 1, -1, -1):
        opener = pieces[openers[place]]
        both_ways = (opener.closes or closer.opens) and (opener.left + closer.left) % 3 == 0
        if opener.mark == closer.mark and not (both_ways and (opener.left % 3 or closer.left % 3)):
            return place
    return None
