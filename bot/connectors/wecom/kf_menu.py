"""The menu below an answer: follow-up questions and thumbs that a customer may tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bot.render import split_text
from bot.reply import Outgoing

MAX_HEAD = 1024
"""Bytes of the text above a menu."""
MAX_LINE = 128
MAX_LINES = 10


def buttons(outgoing: Outgoing, text: Callable[[str], str], *, feedback: bool) -> list[tuple[str, str]]:
    """(id, text) of what can be tapped, none where nothing can; `text` looks labels up.

    A tap comes back as a text with the id as its `menu_id`: it is only believed to be a vote of whoever sent
    it, and a question is read from its text. Lines have 128 bytes at most, a menu has 10 lines at most.
    """
    votes = []
    if feedback and outgoing.feedback and outgoing.inbox_id is not None:
        votes = [(f"vote:{vote}:{outgoing.inbox_id}", text(f"feedback_{vote}")) for vote in ("up", "down")]
    choices = [choice for choice in outgoing.choices if choice.strip()][: MAX_LINES - len(votes)]
    lines = [(f"ask:{number}", choice) for number, choice in enumerate(choices)]
    return [(name, split_text(line, MAX_LINE, "bytes")[0]) for name, line in (*lines, *votes)]


def menu(head: str, clicks: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A msgmenu of these lines below a text."""
    lines = [{"type": "click", "click": {"id": name, "content": line}} for name, line in clicks]
    return {
        "msgtype": "msgmenu",
        "msgmenu": {"head_content": head, "list": lines} if head else {"list": lines},
    }
