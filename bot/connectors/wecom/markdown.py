"""From CommonMark to what WeCom shows: plain text, or the few marks of its `markdown` messages.

Lengths are UTF-8 bytes, WeCom's unit [path/90236].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from bot.commonmark import Run, Style, runs
from bot.render import measure

SUBSET_BYTES = 2048
"""The longest `markdown` message of message/send [path/90236]."""

_FONT = re.compile(r"</?font\b[^<>\n]{0,60}>")


def plain(text: str) -> str:
    """Readable text without marks: "label (url)", "- item", "> quote"; code and tables as they are.

    Only struck-out words keep their ~~: without it an old price would stand beside the new one. Never
    longer than `text`; what would come out blank stays as it was written.
    """
    shown = "\n".join(_quoted(line, _plain(line)) for line in _lines(text))
    return shown if shown.strip() and measure(shown, "bytes") <= measure(text, "bytes") else text


def subset(text: str) -> str:
    """What message/send's `markdown` shows: headings, bold, links, inline code, quotes, font colours.

    The rest becomes readable text inside of that. At most SUBSET_BYTES long if `text` is: where its marks
    would need more, it is plain text.
    """
    shown = "\n".join(_quoted(line, _marked(line)) for line in _lines(text))
    fits = measure(shown, "bytes") <= max(SUBSET_BYTES, measure(text, "bytes"))
    return shown if fits and shown.strip() else plain(text)


def _lines(text: str) -> Iterator[list[Run]]:
    """The runs of each line; an empty line has an empty one, which tells whether it is quoted."""
    line: list[Run] = []
    for piece, styles in runs(text, bullet="- ", rule="---"):
        *ended, rest = piece.split("\n")
        for end in ended:
            yield [*line, (end, styles)] if end or not line else line
            line = []
        if rest:
            line.append((rest, styles))


def _quoted(line: list[Run], shown: str) -> str:
    return f"> {shown}".rstrip() if ("quote", "") in line[0][1] else shown


def _plain(line: list[Run]) -> str:
    shown = []
    for url, pieces in groupby(line, lambda run: _detail(run[1], "link")):
        label = _text(
            (piece if _is_code(styles) else _FONT.sub("", piece), styles) for piece, styles in pieces
        )
        shown.append(label if url is None or url in (label, f"mailto:{label}") else f"{label} ({url})")
    return "".join(shown)


def _marked(line: list[Run]) -> str:
    shown = "".join(
        _MARKS[kind](_text(pieces), detail)
        for (kind, detail), pieces in groupby(line, lambda run: _mark(run[1]))
    )
    level = _detail(line[0][1], "heading")
    return shown if level is None else f"{'#' * int(level)} {shown}"


def _mark(styles: frozenset[Style]) -> Style:
    """The one mark by which a run is shown: they do not nest, and a heading is bold as it is."""
    kinds = dict(styles)
    for kind in ("link", "pre", "code", "heading", "bold"):
        if kind in kinds:
            return kind, kinds[kind]
    return "", ""


def _link(label: str, url: str) -> str:
    return f"[{label}]({url.replace('(', '%28').replace(')', '%29')})"


def _code(text: str, _: str) -> str:
    return f"`{text}`" if text.strip() and "`" not in text else text


def _bold(text: str, _: str) -> str:
    """Blanks stay outside: beside one the mark would not be read."""
    words = text.strip()
    return text.replace(words, f"**{words}**", 1) if words else text


def _unmarked(text: str, _: str) -> str:
    return text


_MARKS: dict[str, Callable[[str, str], str]] = {
    "link": _link,
    "pre": _code,
    "code": _code,
    "heading": _unmarked,
    "bold": _bold,
    "": _unmarked,
}


def _text(line: Iterable[Run]) -> str:
    """The text of some runs, in which what is struck out shows."""
    shown = []
    for struck, pieces in groupby(line, lambda run: ("strikethrough", "") in run[1]):
        text = "".join(piece for piece, _ in pieces)
        shown.append(f"~~{text}~~" if struck else text)
    return "".join(shown)


def _is_code(styles: frozenset[Style]) -> bool:
    return _detail(styles, "code") is not None or _detail(styles, "pre") is not None


def _detail(styles: frozenset[Style], kind: str) -> str | None:
    return dict(styles).get(kind)
