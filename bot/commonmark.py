"""Reading CommonMark into pieces of text with their styles.

Read is what answers use: emphasis, strikethrough, code, links, headings, lists, quotes and rules. Whatever
else there is stays as it was written, so nothing is lost. The time it takes grows with the text's length.
"""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

Style = tuple[str, str]
"""(kind, detail): link and its URL, pre and its language, heading and its level; others have none."""
Run = tuple[str, frozenset[Style]]
"""A piece of text with all its styles."""

_MAX_DELIMITERS = 400  # looking for partners is quadratic; a paragraph with more is no emphasis but a game

_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)[^`]*+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t](.*)")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
_BULLET = re.compile(r"^([ \t]*)[-*+][ \t]+(?=\S)")
_QUOTE = re.compile(r"(?: {0,3}> ?)+")  # all levels at once: chat platforms do not nest them
_TOKEN = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<ticks>`+)"
    r"|(?P<reference>&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)"
    r"|<(?P<autolink>https?://[^\s<>]{1,1000})>"
    r"|!?\[(?P<label>(?:[^\[\]\\\n]|\\.|\[[^\[\]\n]{0,100}+\]){1,300}+)\]"
    r"\([ \t]*<?(?P<url>(?:https?://|tg://|mailto:)(?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,1000})>?"
    r"(?:[ \t]+(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'))?[ \t]*\)"
    r"|(?P<bare>https?://[^\s*<>()\[\]`~]{1,1000})"
    r"|(?P<delimiter>\*+|_+|~~)"
)


def runs(text: str, *, bullet: str = "• ", rule: str = "———") -> Iterator[Run]:
    """The runs of a text, a line break behind each block; `bullet` and `rule` stand for their marks."""
    return _blocks(text.replace("\r\n", "\n").split("\n"), bullet, rule)


# -- blocks ---------------------------------------------------------------------------------


def _blocks(lines: list[str], bullet: str, rule: str) -> Iterator[Run]:
    index = 0
    while index < len(lines):
        line = lines[index]
        end = index + 1
        fence = _FENCE.fullmatch(line)
        if fence:
            end = _fence_end(lines, index, fence[1])
            yield "\n".join(lines[index + 1 : end]), frozenset({("pre", fence[2])})
            end += 1
        elif _QUOTE.match(line):
            while end < len(lines) and _QUOTE.match(lines[end]):
                end += 1
            quoted = [_QUOTE.sub("", line, count=1) for line in lines[index:end]]
            *within, _ = _blocks(quoted, bullet, rule)
            yield from _styled(iter(within), ("quote", ""))
        elif heading := _HEADING.fullmatch(line):
            yield from _styled(_inline(_title(heading[2])), ("heading", str(len(heading[1]))))
        elif _RULE.fullmatch(line):
            yield rule, frozenset()
        else:
            end = _paragraph_end(lines, index)
            yield from _inline("\n".join(_shown(part, bullet) for part in lines[index:end]))
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


def _shown(line: str, bullet: str) -> str:
    """A line with a real bullet, and without the marks of a hard line break."""
    line = re.sub(r"(?<!\\)\\$", "", line.rstrip())
    return _BULLET.sub(lambda found: found[1] + bullet, line, count=1)


def _styled(pieces: Iterator[Run], style: Style) -> Iterator[Run]:
    for text, styles in pieces:
        yield text, styles | {style}


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
        _emphasise(pieces)
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
                link: Style = ("link", found["url"])
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


def _emphasise(pieces: list[_Piece]) -> None:
    """Style what lies between each closing delimiter and its partner."""
    begins: defaultdict[int, Counter[Style]] = defaultdict(Counter)
    ends: defaultdict[int, Counter[Style]] = defaultdict(Counter)
    for start, end, kind in _pairs(pieces):
        begins[start][kind, ""] += 1
        ends[end][kind, ""] += 1
    active: Counter[Style] = Counter()
    for index, piece in enumerate(pieces):
        if index in ends:
            active -= ends[index]
        piece.styles.update(active)
        if index in begins:
            active += begins[index]


def _pairs(pieces: list[_Piece]) -> Iterator[tuple[int, int, str]]:
    """(opening delimiter, closing delimiter, style): each closing one takes the nearest before it."""
    openers: list[int] = []
    for index, piece in enumerate(pieces):
        while piece.closes and piece.left:
            place = _opener(pieces, openers, piece)
            if place is None:
                break
            opener = pieces[openers[place]]
            used = min(2, piece.left, opener.left)
            yield (
                openers[place],
                index,
                "strikethrough" if piece.mark == "~" else "bold" if used == 2 else "italic",
            )
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
