"""How the bot learns from staff: what went unanswered, proposed answers, and the admins' word on them."""

from __future__ import annotations

import asyncio
from time import time

from bot import Answered, DataError, Message, Session, role
from bot.retrieval import Index
from bot.store import Audit, History, Step, Store
from plugins.faq.approving import approve
from plugins.faq.base import Config, plugin
from plugins.faq.learning import Learning, Unanswered, counted, grouped
from plugins.faq.sync import FaqSource
from plugins.faq.tables import FaqTable

STAFF = ("agents", "admins")
DAYS = 30
"""For which questions are listed."""
KEPT = 180 * 86400.0
_LISTED = 10
_CUT = 60
_staff = [role(*STAFF)]
_admins = [role("admins")]


# -- what went unanswered -----------------------------------------------------------------------


@plugin.answered
def note_miss(answered: Answered) -> list[Step]:
    """Count a question that nobody knew an answer to."""
    if not (answered.is_question and answered.reply.miss):
        return []
    return counted(answered.question, answered.at, misses=1)


@plugin.event("feedback")
async def note_vote(message: Message, history: History, store: Store) -> None:
    """Count a question whose answer did not help, once for each asker and answer."""
    answered = message.data.get("inbox_id")
    if message.data.get("vote") not in (-1, "down") or not isinstance(answered, int):
        return
    about = await history.round(message.connector, message.user.id, answered)
    if about is not None and about.vote != -1:
        await store.write(*counted(about.question, time(), votes=1))


@plugin.command("unanswered", "未答", help="command_unanswered", rules=_staff)
async def list_unanswered(session: Session, store: Store, index: Index) -> str:
    """The questions that were asked most and got no answer, or none that helped."""
    found = await Learning(store).unanswered(time() - DAYS * 86400.0)
    groups = await asyncio.to_thread(grouped, found, index.encoder)
    lines = [_line(session, one) for one in groups[:_LISTED]]
    return "\n".join(lines) or session.text("unanswered_none")


# -- answers for it -----------------------------------------------------------------------------


@plugin.command("learn", "学习", help="command_learn", rules=_staff)
async def learn(args: str, message: Message, session: Session, store: Store, index: Index) -> str:
    """Propose an entry: the number of an unanswered question and its answer, or "question || answer"."""
    learning, (questions, answer) = Learning(store), _question_and_answer(args)
    first, _, rest = args.strip().partition(" ")
    number = first.removeprefix("#")
    if not answer and number.isdecimal() and rest.strip():
        known = await learning.numbered(int(number[:18]))
        if known is None:
            return session.text("learn_unknown", number=number)
        questions, answer = await _all_alike(learning, known, index), rest.strip()
    if not questions or not answer:
        return session.text("learn_usage")
    double = await asyncio.to_thread(index.exact, questions[0])
    if double is not None:
        return session.text("learn_known", id=double.id, question=double.entry.texts[0])
    by, audit = f"{message.bot}:{message.user.id}", Audit.add(message, "learn", questions[0][:200])
    made = await learning.propose(questions, answer, by, time(), audit, trace=message.trace)
    return session.text("learn_proposed", number=made)


@plugin.command("candidates", "候选", help="command_candidates", rules=_staff)
async def list_candidates(session: Session, store: Store) -> str:
    """The proposed answers that wait for an admin."""
    lines = [
        session.text("candidate_item", number=one.id, question=one.questions[0], answer=one.answer, by=one.by)
        for one in await Learning(store).candidates()
    ]
    return "\n".join(lines) or session.text("candidates_none")


@plugin.command("approve", "通过", help="command_approve", rules=_admins)
async def take(
    args: str,
    message: Message,
    session: Session,
    store: Store,
    index: Index,
    config: Config,
) -> str:
    """Make candidate `args` an entry, perhaps with another answer after its number."""
    number, answer = _number(args)
    learning, table = Learning(store), FaqTable(store)
    try:
        candidate = await learning.candidate(number)
        audit = Audit.add(message, "faq-approve", str(number), answer)
        await approve(learning, table, candidate, f"{message.bot}:{message.user.id}", audit, answer)
    except DataError as error:
        return session.text("candidate_problem", problem=str(error))
    entries, _ = await FaqSource(table, config.files).load()
    await asyncio.to_thread(index.replace, entries)  # at once, not only when the table is looked at next
    return session.text("candidate_approved", number=number, id=candidate.entry_id)


@plugin.command("edit", "修改", help="command_edit", rules=_admins)
async def edit(args: str, message: Message, session: Session, store: Store) -> str:
    """Give a candidate another answer."""
    number, answer = _number(args)
    if not answer:
        return session.text("candidate_usage")
    learning = Learning(store)
    try:
        candidate = await learning.candidate(number)
    except DataError as error:
        return session.text("candidate_problem", problem=str(error))
    await learning.edit(candidate, answer, Audit.add(message, "faq-edit", str(number)))
    return session.text("candidate_edited", number=number)


@plugin.command("reject", "驳回", help="command_reject", rules=_admins)
async def reject(args: str, message: Message, session: Session, store: Store) -> str:
    """Turn a candidate down, perhaps with a reason."""
    number, why = _number(args)
    learning = Learning(store)
    try:
        candidate = await learning.candidate(number)
    except DataError as error:
        return session.text("candidate_problem", problem=str(error))
    by = f"{message.bot}:{message.user.id}"
    audit = Audit.add(message, "faq-reject", str(number), why)
    await learning.decide(candidate, "rejected", by, time(), audit, why=why)
    return session.text("candidate_rejected", number=number)


@plugin.schedule("41 3 * * *")
async def tidy(store: Store) -> None:
    """Forget what was asked long ago."""
    await Learning(store).expire(time() - KEPT)


# -- the pieces ---------------------------------------------------------------------------------


async def _all_alike(learning: Learning, known: Unanswered, index: Index) -> list[str]:
    """The question and those that say the same: the answer is for all of them."""
    found = await learning.unanswered(time() - DAYS * 86400.0)
    groups = await asyncio.to_thread(grouped, found, index.encoder)
    mine = next((one.questions for one in groups if known.questions[0] in one.questions), known.questions)
    return list(dict.fromkeys((known.questions[0], *mine)))


def _line(session: Session, one: Unanswered) -> str:
    question = " ".join(one.questions[0].split())
    short = question if len(question) <= _CUT else f"{question[: _CUT - 1]}…"
    more = len(one.questions) - 1
    return session.text("unanswered_item", number=one.id, question=short, count=one.count, more=more)


def _question_and_answer(args: str) -> tuple[list[str], str]:
    question, bars, answer = args.partition("||")
    return ([question.strip()], answer.strip()) if bars and question.strip() else ([], "")


def _number(args: str) -> tuple[int, str]:
    first, _, rest = args.strip().partition(" ")
    digits = first.removeprefix("#")
    return int(digits) if digits.isdecimal() and len(digits) < 19 else 0, rest.strip()
