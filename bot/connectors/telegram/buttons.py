"""The buttons below an answer: thumbs and follow-up questions, and what a press of one means.

`callback_data` comes from the user's client and can be forged. A press counts only when its data stands on
a button of the very message that Telegram says was pressed: that binds it to the chat and the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bot.connectors.fields import items, mapping, string
from bot.reply import Outgoing

Vote = Literal["up", "down"]
MAX_CHOICES = 20
_VOTE = re.compile(r"vote:(up|down):(\d{1,18})")
_CHOICE = re.compile(r"ask:\d{1,2}")


@dataclass(frozen=True, slots=True)
class Rated:
    """A thumb was pressed below the answer to the message with this inbox id."""

    vote: Vote
    inbox_id: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """A follow-up question was pressed."""

    text: str


def keyboard(outgoing: Outgoing, text: Callable[[str], str], *, feedback: bool) -> dict[str, Any] | None:
    """The `reply_markup` of an answer, None where it has no buttons; `text` looks labels up."""
    rows = [
        [{"text": choice, "callback_data": f"ask:{number}"}]
        for number, choice in enumerate(outgoing.choices[:MAX_CHOICES])
        if choice.strip()
    ]
    if feedback and outgoing.feedback and outgoing.inbox_id is not None:
        rows.append(
            [
                {"text": text(f"feedback_{vote}"), "callback_data": f"vote:{vote}:{outgoing.inbox_id}"}
                for vote in ("up", "down")
            ]
        )
    return {"inline_keyboard": rows} if rows else None


def pressed(message: Mapping[str, Any], data: str) -> Rated | Chosen | None:
    """What a press of a button of `message` means; None when it has no such button (any more)."""
    rows = items(mapping(message.get("reply_markup")).get("inline_keyboard"))
    buttons = (mapping(button) for row in rows for button in items(row))
    label = next(
        (string(button.get("text")) for button in buttons if button.get("callback_data") == data), ""
    )
    if not label:
        return None
    rating = _VOTE.fullmatch(data)
    if rating:
        return Rated("up" if rating[1] == "up" else "down", int(rating[2]))
    return Chosen(label) if _CHOICE.fullmatch(data) else None
