"""What is counted of every question; docs/plugins.md lists the measures."""

from __future__ import annotations

from bisect import bisect_left

from bot import Answered, mask_personal_data
from bot.retrieval import normalise
from bot.store import Step, Tally

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
"""Seconds: the classes of response times; the last one has no bound."""
LAST = "more"


def counted(answered: Answered) -> list[Step]:
    """Steps for a question and its answer; none for what is no question."""
    if not answered.is_question:
        return []
    at, chat, text = answered.at, answered.chat, normalise(mask_personal_data(answered.question))
    steps = [
        Tally.add(at, chat, "question", _who(answered), total=answered.seconds),
        Tally.add(at, chat, "seconds", seconds_class(answered.seconds)),
        Tally.add(at, chat, "text", text),
    ]
    if answered.reply.miss:
        steps.append(Tally.add(at, chat, "miss", text))
    steps += [Tally.add(at, chat, "source", source) for source in answered.reply.all_sources]
    return steps


def _who(answered: Answered) -> str:
    return "" if answered.reply.miss else answered.plugin


def seconds_class(seconds: float) -> str:
    """The class of a response time, named by its upper bound."""
    place = bisect_left(BOUNDS, seconds)
    return f"{BOUNDS[place]:g}" if place < len(BOUNDS) else LAST
