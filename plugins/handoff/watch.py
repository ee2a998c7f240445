"""Sees from the bot's own answers that it is time for a person, and hands the talk over or offers to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from time import time

from bot import Answer, Answered, Message, Reply, Session, Stream
from bot.store import Step
from plugins.handoff.config import Automatic, Mode
from plugins.handoff.switchboard import REASONS, Switchboard
from plugins.handoff.tables import Handoffs, keep_streak
from plugins.handoff.tone import is_angry
from plugins.handoff.triggers import Streak


async def watch(board: Switchboard, message: Message, session: Session, answer: Answer) -> Answer:
    """The answer, with what is to be said about people where it is time for them.

    Nobody who did not ask is taken from the bot while people are away: they are only offered then.
    """
    answer = Reply(answer) if isinstance(answer, str) else answer
    if not isinstance(answer, Reply | Stream) or not board.can_hand_over(message):
        return answer
    begun = session.key in board.handoffs.open
    reason, mode = await _reason(board, message, session, answer)
    if not reason:
        return answer
    if mode == "offer" or (reason in Automatic.model_fields and not begun and board.is_away()):
        return _with_offer(answer, session, reason)
    source = next(iter(answer.all_sources if isinstance(answer, Reply) else answer.sources), "")
    text = await board.hand_over(message, session, reason, source)
    return answer if text is None else _with_text(answer, text, reason)


async def _reason(
    board: Switchboard, message: Message, session: Session, answer: Reply | Stream
) -> tuple[str, Mode]:
    """Why it is time for a person, "" where it is not, and what to do then."""
    handoff = board.handoffs.open.get(session.key)
    if handoff is not None:  # by this very message: just now, or before a crash
        begun = handoff.trace == message.trace and handoff.reason != "asked"
        return (handoff.reason, "hand_over") if begun else ("", "off")
    if answer.hand_over:
        return (answer.hand_over if answer.hand_over in REASONS else "plugin"), "hand_over"
    automatic = board.config.automatic
    if automatic.tone != "off" and is_angry(message.text):
        return "tone", automatic.tone
    streak = await _after(board, session.key, answer)
    if streak is None or not streak.reason:
        return "", "off"
    for reason, mode in (("misses", automatic.misses), ("unsure", automatic.unsure)):
        if getattr(streak, reason) >= 2 and mode != "off":
            return reason, mode
    return "", "off"


async def _after(board: Switchboard, session: str, answer: Reply | Stream) -> Streak | None:
    """The streak with this answer; None where the answer ends it."""
    return await streak_after(
        board.handoffs, session, _is_miss(answer), answer.confidence, board.config.low_confidence
    )


async def streak_after(
    handoffs: Handoffs, session: str, miss: bool, confidence: float | None, low: float
) -> Streak | None:
    """The streak of a talk with one more answer; None where the answer ends it, so that none is looked up."""
    if not miss and (confidence is None or confidence >= low):
        return None
    before = await handoffs.streak(session)
    return before.after(miss=miss, confidence=confidence, low=low, at=time())


async def steps_of(board: Switchboard, answered: Answered) -> Sequence[Step]:
    """What is to be remembered of an answer: the streak that it goes on with or ends."""
    reply, now = answered.reply, time()
    streak: Streak | None = Streak(at=now)
    if reply.hand_over and answered.session not in board.handoffs.open:
        streak = Streak(offered=reply.hand_over[:16], at=now)
    elif not answered.is_question:
        return ()
    elif answered.session not in board.handoffs.open:
        low = board.config.low_confidence
        streak = await streak_after(board.handoffs, answered.session, reply.miss, reply.confidence, low)
    return [keep_streak(streak or Streak(at=now), answered.session, answered.message)]


def offer(session: Session, reason: str) -> Reply:
    """The offer of a person, for its own sake."""
    return Reply(session.text("handoff_offer"), choices=(session.text("handoff_wish"),), hand_over=reason)


def _with_offer(answer: Reply | Stream, session: Session, reason: str) -> Reply | Stream:
    answer = _with_text(answer, session.text("handoff_offer"), reason, keep=True)
    if isinstance(answer, Reply):
        return replace(answer, choices=(*answer.choices, session.text("handoff_wish")))
    return answer


def _with_text(answer: Reply | Stream, text: str, reason: str, *, keep: bool = False) -> Reply | Stream:
    """The answer with a text behind it; in place of it where it says no more than that it knows nothing."""
    if isinstance(answer, Stream):
        return replace(answer, chunks=_followed(answer.chunks, f"\n\n{text}"), hand_over=reason)
    whole = f"{answer.text}\n\n{text}" if keep or not answer.miss else text
    return replace(answer, text=whole, hand_over=reason)


async def _followed(chunks: AsyncIterator[str], text: str) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk
    yield text


def _is_miss(answer: Reply | Stream) -> bool:
    return isinstance(answer, Reply) and answer.miss
