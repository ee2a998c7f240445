"""Answers from the FAQ: the very question at once, a similar one above the threshold, else "did you mean"."""

from __future__ import annotations

import asyncio
import re

from bot import Background, Message, Reply, Session, keep_index, to_me, unasked
from bot.retrieval import Hit, Index
from bot.store import Store
from plugins.faq import learning_commands as learning_commands  # which register themselves
from plugins.faq.base import Config, plugin
from plugins.faq.sync import FaqSource
from plugins.faq.tables import FaqTable

NEAR_CERTAIN = 0.9
"""The confidence from which a question in a group is answered that nobody asked the bot."""
NEAR_MISS = 0.7
"""A best hit with this part of the threshold's confidence is offered as "did you mean"."""
RIVAL = 0.85
"""Further entries are offered with at least this part of the best one's score."""
OFFERED = 3


@plugin.startup
async def load(index: Index, store: Store, config: Config, background: Background) -> None:
    """Bring table and index in step with the files, and keep them so."""
    await keep_index(index, FaqSource(FaqTable(store), config.files), background)


@plugin.shutdown
async def stop(background: Background) -> None:
    """End what keeps the FAQ up to date."""
    await background.stop()


@plugin.message(to_me, priority=20)
async def answer(message: Message, index: Index, config: Config) -> Reply | None:
    """The entry's answer, when it is sure enough to be the right one."""
    hit = await _best(index, message.text)
    if hit is None or not (hit.exact or hit.confidence >= threshold(index, config, message.text)):
        return None
    return _reply(hit)


@plugin.message(unasked, priority=20, overhear=True)
async def overhear(message: Message, index: Index) -> Reply | None:
    """In a group that wants it: answer what nobody asked the bot, when the answer is near certain."""
    hit = await _best(index, message.text)
    return _reply(hit) if hit and (hit.exact or hit.confidence >= NEAR_CERTAIN) else None


@plugin.regex(r"^\W*(\d{1,2})\W*$", rules=[to_me], priority=20)
async def choose(match: re.Match[str], session: Session, index: Index) -> Reply | None:
    """The number of a question offered by the last "did you mean"."""
    rounds = await session.history()
    if not rounds:
        return None
    mark = "\0"
    option = session.text("did_you_mean_option", number=int(match[1]), question=mark)
    before, after = option.split(mark)
    for line in rounds[-1].answer.splitlines():
        if line.startswith(before) and line.endswith(after):
            hit = index.exact(line[len(before) : len(line) - len(after)])
            return _reply(hit) if hit else None
    return None


@plugin.message(to_me, priority=60)
async def did_you_mean(message: Message, index: Index, config: Config, session: Session) -> Reply | None:
    """Near misses that nothing else answered, as questions to choose from."""
    hits = near_misses(await _search(index, message.text), threshold(index, config, message.text))
    if not hits:
        return None
    questions = tuple(hit.entry.texts[0] for hit in hits)
    options = "\n".join(
        session.text("did_you_mean_option", number=number, question=question)
        for number, question in enumerate(questions, 1)
    )
    return Reply(
        session.text("did_you_mean", options=options), choices=questions, confidence=hits[0].confidence
    )


def threshold(index: Index, config: Config, text: str) -> float:
    """The confidence from which an entry's answer is given for `text`."""
    return index.threshold_for(text) if config.threshold == "auto" else config.threshold


def near_misses(hits: list[Hit], threshold: float) -> list[Hit]:
    """Of hits, best first, those worth offering: none unless the best is plausible and yet too unsure."""
    if not hits or not NEAR_MISS * threshold <= hits[0].confidence < threshold:
        return []
    return [hit for hit in hits if hit.score >= RIVAL * hits[0].score][:OFFERED]


async def _search(index: Index, text: str, most: int = 5) -> list[Hit]:
    """Fused retrieval, off the event loop; a bare number or sign would only find the same figure."""
    if not any(map(str.isalpha, text)):
        return []
    return await asyncio.to_thread(index.search, text, most)


async def _best(index: Index, text: str) -> Hit | None:
    """The very question at once, else the best similar one."""
    exact = index.exact(text)
    if exact is not None:
        return exact
    hits = await _search(index, text, 1)
    return hits[0] if hits else None


def _reply(hit: Hit) -> Reply:
    return Reply(hit.answer, source=hit.id, feedback=True, confidence=hit.confidence)
