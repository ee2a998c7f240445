"""What went unanswered, and the answers that staff propose for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot import DataError, mask_personal_data
from bot.retrieval import Encoder, exact_key, group, normalise
from bot.store import Base, Step, Store

MOST = 5_000
"""Distinct questions that are put into groups, those that were asked most."""
_KEY = 200
State = Literal["new", "approved", "rejected"]


class UnansweredRow(Base):
    """A question that got no answer, or one that did not help; `settled_at`: it has an answer since then."""

    __tablename__ = "faq_unanswered"
    __table_args__ = (Index("ix_faq_unanswered_last_at", "last_at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    key: Mapped[str] = mapped_column(String(_KEY), unique=True)
    question: Mapped[str] = mapped_column(Text)
    misses: Mapped[int]
    votes: Mapped[int]
    first_at: Mapped[float] = mapped_column(Float)
    last_at: Mapped[float] = mapped_column(Float)
    settled_at: Mapped[float] = mapped_column(Float)


class CandidateRow(Base):
    """An answer that somebody of the staff proposes; an admin decides."""

    __tablename__ = "faq_candidate"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    questions: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(256))
    at: Mapped[float] = mapped_column(Float)
    decided_by: Mapped[str] = mapped_column(String(256), default="")
    decided_at: Mapped[float | None] = mapped_column(Float)
    why: Mapped[str] = mapped_column(Text, default="")
    trace: Mapped[str] = mapped_column(String(32), unique=True)


_INSERT = insert(UnansweredRow)
_COUNT = _INSERT.on_conflict_do_update(
    index_elements=["key"],
    set_={
        "misses": UnansweredRow.misses + _INSERT.excluded.misses,
        "votes": UnansweredRow.votes + _INSERT.excluded.votes,
        "last_at": _INSERT.excluded.last_at,
    },
)
_SETTLE = (
    update(UnansweredRow).where(UnansweredRow.key == bindparam("of")).values(settled_at=bindparam("since"))
)
# A command that is handled again after a crash proposes nothing twice.
_PROPOSE = insert(CandidateRow).on_conflict_do_nothing(index_elements=["trace"])
_ANSWER = update(CandidateRow).where(CandidateRow.id == bindparam("row")).values(answer=bindparam("text"))
_DECIDE = (
    update(CandidateRow)
    .where(CandidateRow.id == bindparam("row"))
    .values(
        state=bindparam("to"),
        decided_by=bindparam("who"),
        decided_at=bindparam("when"),
        why=bindparam("because"),
    )
)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Questions that say the same: the one that was asked most, and how often all of them were."""

    id: int
    questions: tuple[str, ...]
    misses: int
    votes: int
    last_at: float

    @property
    def count(self) -> int:
        """How often an answer was wanting."""
        return self.misses + self.votes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed entry."""

    id: int
    questions: tuple[str, ...]
    answer: str
    state: State
    by: str

    @property
    def entry_id(self) -> str:
        """The id that it has in the FAQ once it is approved."""
        return f"learned-{self.id}"


def counted(question: str, at: float, *, misses: int = 0, votes: int = 0) -> list[Step]:
    """The step that counts a question; none for one that says nothing."""
    question = mask_personal_data(question)  # whatever the history keeps: staff of all chats read it here
    key = (exact_key(question) or normalise(question))[:_KEY]
    if not key:
        return []
    row = {
        "key": key,
        "question": question[:2000],
        "misses": misses,
        "votes": votes,
        "first_at": at,
        "last_at": at,
        "settled_at": 0.0,
    }
    return [Step(_COUNT, [row])]


class Learning:
    """Reads and writes both tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- questions --------------------------------------------------------------------------

    async def unanswered(self, since: float) -> list[Unanswered]:
        """Questions by themselves, asked since a unix time and not settled, the most frequent first."""
        often = (UnansweredRow.misses + UnansweredRow.votes).desc()
        wanted = (
            select(*_OF_QUESTION)
            .where(UnansweredRow.last_at >= since, UnansweredRow.last_at > UnansweredRow.settled_at)
            .order_by(often, UnansweredRow.last_at.desc())
            .limit(MOST)
        )
        return [_unanswered(row) for row in await self._store.read(wanted)]

    async def numbered(self, number: int) -> Unanswered | None:
        """One question by its number."""
        rows = await self._store.read(select(*_OF_QUESTION).where(UnansweredRow.id == number))
        return _unanswered(rows[0]) if rows else None

    async def settle(self, questions: Sequence[str], now: float) -> None:
        """They have an answer from now on."""
        keys = {(exact_key(text) or normalise(text))[:_KEY] for text in questions}
        await self._store.write(Step(_SETTLE, [{"of": key, "since": now} for key in sorted(keys)]))

    # -- answers ----------------------------------------------------------------------------

    async def propose(
        self, questions: Sequence[str], answer: str, by: str, now: float, *steps: Step, trace: str = ""
    ) -> int:
        """Keep an answer for an admin to decide on; returns its number. Raises StoreError."""
        trace = trace or uuid4().hex
        row = {
            "questions": json.dumps(list(questions), ensure_ascii=False),
            "answer": answer,
            "state": "new",
            "by": by,
            "at": now,
            "decided_by": "",
            "decided_at": None,
            "why": "",
            "trace": trace,
        }
        await self._store.write(Step(_PROPOSE, [row]), *steps)
        [found] = await self._store.read(select(CandidateRow.id).where(CandidateRow.trace == trace))
        return int(found.id)

    async def candidates(self, state: State = "new") -> list[Candidate]:
        """Those in a state, oldest first."""
        rows = await self._store.read(
            select(*_OF_CANDIDATE).where(CandidateRow.state == state).order_by(CandidateRow.id)
        )
        return [_candidate(row) for row in rows]

    async def candidate(self, number: int) -> Candidate:
        """One that is not decided on yet. Raises DataError."""
        rows = await self._store.read(select(*_OF_CANDIDATE).where(CandidateRow.id == number))
        if not rows:
            raise DataError(f"there is no candidate {number}", remedy="list them: glmbot faq candidates")
        found = _candidate(rows[0])
        if found.state != "new":
            raise DataError(f"candidate {number} is {found.state} already")
        return found

    async def edit(self, candidate: Candidate, answer: str, *steps: Step) -> None:
        """Give it another answer. Raises StoreError."""
        await self._store.write(Step(_ANSWER, [{"row": candidate.id, "text": answer}]), *steps)

    async def decide(
        self, candidate: Candidate, state: State, by: str, now: float, *steps: Step, why: str = ""
    ) -> None:
        """Approve or reject it. Raises StoreError."""
        row = {"row": candidate.id, "to": state, "who": by, "when": now, "because": why}
        await self._store.write(Step(_DECIDE, [row]), *steps)

    async def expire(self, before: float) -> None:
        """Remove questions that were asked last before a unix time."""
        await self._store.execute(delete(UnansweredRow).where(UnansweredRow.last_at < before))


def grouped(found: Sequence[Unanswered], encoder: Encoder) -> list[Unanswered]:
    """Questions that say the same as one, the most frequent first; takes seconds for many."""
    groups = []
    for places in group([normalise(one.questions[0]) for one in found], encoder):
        members = [found[place] for place in places]
        groups.append(
            Unanswered(
                members[0].id,
                tuple(one.questions[0] for one in members),
                sum(one.misses for one in members),
                sum(one.votes for one in members),
                max(one.last_at for one in members),
            )
        )
    return sorted(groups, key=lambda one: (-one.count, -one.last_at))


_OF_QUESTION = (
    UnansweredRow.id,
    UnansweredRow.question,
    UnansweredRow.misses,
    UnansweredRow.votes,
    UnansweredRow.last_at,
)
_OF_CANDIDATE = (
    CandidateRow.id,
    CandidateRow.questions,
    CandidateRow.answer,
    CandidateRow.state,
    CandidateRow.by,
)


def _unanswered(row: Any) -> Unanswered:
    return Unanswered(row.id, (row.question,), row.misses, row.votes, row.last_at)


def _candidate(row: Any) -> Candidate:
    return Candidate(row.id, tuple(json.loads(row.questions)), row.answer, row.state, row.by)
