"""Splitting texts into parts a platform takes, by the platform's own unit and at readable places."""

from __future__ import annotations

import re
from typing import Literal

Unit = Literal["characters", "utf16", "bytes"]

# Where a text is cut, best place first; each pattern ends where the first part ends.
_BREAKS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[。！？!?…；;]+[”’」』)）\]]*|\.(?=\s)"),
    re.compile(r"[，,、：:]\s*|\s+"),
)
_FENCE = re.compile(r"^ {0,3}(```|~~~)([^\n`]*)$", re.MULTILINE)


def measure(text: str, unit: Unit) -> int:
    """The length of `text` as the platform counts it."""
    if unit == "utf16":
        return len(text) + sum(char > "\uffff" for char in text)
    if unit == "bytes":
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text)


def split_text(text: str, limit: int, unit: Unit = "characters", *, markdown: bool = False) -> list[str]:
    """Cut `text` into parts of at most `limit` units: at paragraphs, lines, sentences, blanks, in that order.

    Never inside a character (surrogate pair, UTF-8 sequence) or a joined emoji. With `markdown` a code
    fence that is cut is closed and opened again. Blank edges of parts are dropped; a blank text has no
    parts. Raises ValueError if `limit` is too small to make progress.
    """
    if limit < 16:
        raise ValueError(f"a limit of {limit} units is too small to split for")
    rest = text.strip()
    parts: list[str] = []
    while rest:
        if measure(rest, unit) <= limit:
            parts.append(rest)
            break
        head, rest, reopened = _cut(rest, limit, unit, markdown)
        if head.strip():
            parts.append(head)
        rest = reopened + rest if rest.strip() else ""
    return parts


def _cut(text: str, limit: int, unit: Unit, markdown: bool) -> tuple[str, str, str]:
    """(first part, rest, fence line to put before the rest)."""
    end = _fitting(text, limit, unit)
    head = text[: _break(text, end)]
    fence = _open_fence(head) if markdown else None
    if fence is None or measure(fence, unit) + 16 > limit:
        return head.rstrip(), text[len(head) :].lstrip("\n ") if not fence else text[len(head) :], ""
    closing = "\n" + fence.lstrip()[:3]
    end = _fitting(text, limit - len(closing), unit)
    cut = _break(text, end)
    if cut <= len(fence) + 1:  # nothing of the block itself fits behind its fence: cut hard
        cut = end
    return text[:cut].rstrip("\n") + closing, text[cut:].lstrip("\n"), fence + "\n"


def _fitting(text: str, limit: int, unit: Unit) -> int:
    """The largest index such that `text[:index]` measures at most `limit`, not inside a joined character."""
    if unit == "characters":
        end = min(limit, len(text))
    else:
        end = used = 0
        for end, char in enumerate(text):  # noqa: B007 - the index is the result
            used += measure(char, unit)
            if used > limit:
                break
        else:
            end = len(text)
    whole = end
    while 0 < whole < len(text) and _joins(text[whole - 1], text[whole]):
        whole -= 1
    return whole or end


def _joins(left: str, right: str) -> bool:
    """Whether two characters belong to one visible character (ZWJ, variation selector, skin tone, accent)."""
    return (
        left == "\u200d"
        or right in "\u200d\ufe0e\ufe0f\u20e3"
        or "\U0001f3fb" <= right <= "\U0001f3ff"
        or "\u0300" <= right <= "\u036f"
    )


def _break(text: str, end: int) -> int:
    """The best place to cut at or before `end`, but not in the first third of what fits."""
    least = end // 3
    for pattern in _BREAKS:
        best = 0
        for found in pattern.finditer(text, 0, end):
            if found.end() > least:
                best = found.end()
        if best:
            return best
    return end


def _open_fence(text: str) -> str | None:
    """The line that opened the code block still open at the end of `text`."""
    opened: str | None = None
    for found in _FENCE.finditer(text):
        if opened is None:
            opened = found[0]
        elif found[1] == opened.lstrip()[:3] and not found[2].strip():
            opened = None
    return opened
