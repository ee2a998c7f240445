"""Makes a proposed answer an entry of the FAQ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time

from bot.store import Step
from plugins.faq.entries import make_record
from plugins.faq.importing import import_records
from plugins.faq.learning import Candidate, Learning
from plugins.faq.tables import FaqTable

_PLACE = Path("learned")


async def approve(
    learning: Learning, table: FaqTable, candidate: Candidate, by: str, audit: Step, answer: str = ""
) -> Candidate:
    """Take it into the FAQ, perhaps with another answer, and settle its questions.

    Raises DataError where a question stands in the FAQ already, or the answer cannot be one; nothing is
    written then. Raises StoreError. Approving once more after a crash does no harm.
    """
    if answer:
        candidate = replace(candidate, answer=answer)
    question, *similar = candidate.questions
    record = make_record(
        _PLACE,
        candidate.id,
        question=question,
        answer=candidate.answer,
        similar=similar,
        given_id=candidate.entry_id,
    )
    await import_records(table, [(_PLACE, record)])
    now = time()
    if answer:
        await learning.edit(candidate, answer)
    await learning.decide(candidate, "approved", by, now, audit)
    await learning.settle(candidate.questions, now)
    return candidate
