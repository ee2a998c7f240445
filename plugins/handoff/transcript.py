"""What an agent reads who takes a talk: what the bot said and on what grounds, and what was said since."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bot.store import Round
from plugins.handoff.tables import Line

ROUNDS, LINES = 5, 30
"""Rounds with the bot and lines with people that are shown, the latest."""
_LONGEST = 400
"""Characters of a text that are shown."""


def transcript(rounds: Sequence[Round], lines: Sequence[Line], text: Callable[..., str]) -> str:
    """Both as text, for staff only; `text` looks up a text of the catalogue."""
    shown = [
        text("handoff_round", question=cut(item.question), answer=cut(item.answer)) + _grounds(item, text)
        for item in rounds[-ROUNDS:]
    ]
    shown += [
        text(f"handoff_line_{line.kind}", agent=line.said_by, text=cut(line.text)) for line in lines[-LINES:]
    ]
    return "\n".join(shown)


def _grounds(item: Round, text: Callable[..., str]) -> str:
    grounds = []
    if item.sources:
        grounds.append(text("handoff_sources", sources="; ".join(item.sources)))
    if item.confidence is not None:
        grounds.append(text("handoff_confidence", percent=round(100 * item.confidence)))
    if item.vote:
        grounds.append("👍" if item.vote > 0 else "👎")
    return "".join(f"\n  {ground}" for ground in grounds)


def cut(text: str, length: int = _LONGEST) -> str:
    """The text, at most so long."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
