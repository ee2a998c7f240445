"""Signs that a talk needs people: answers in a row that were none, or unsure; kept with each answer."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Float, Integer, String, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, mapped_column

from bot import Answered, Memory, Reply
from bot.store import Base, Step, Store
from plugins.handoff.base import Automatic


class SignRow(Base):
    """How many answers in a row were none, and how many were unsure, in one talk."""

    __tablename__ = "handoff_sign"

    session: Mapped[str] = mapped_column(String(512), primary_key=True)
    connector: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column(String(128))
    misses: Mapped[int] = mapped_column(Integer)
    unsure: Mapped[int] = mapped_column(Integer)
    at: Mapped[float] = mapped_column(Float)


_INSERT = insert(SignRow)
_PUT = _INSERT.on_conflict_do_update(
    index_elements=["session"], set_={name: _INSERT.excluded[name] for name in ("misses", "unsure", "at")}
)
_NONE = (0, 0)


@dataclass(slots=True)
class _Known:
    signs: dict[str, tuple[int, int]]
    loaded: bool = False


class Signs:
    """(misses, unsure answers) in a row by session, in memory and in the database."""

    def __init__(self, store: Store, memory: Memory, rules: Automatic) -> None:
        self._store = store
        self._known = memory.keep("signs", lambda: _Known({}))
        self._rules = rules

    async def load(self) -> None:
        """Read them, unless they were read."""
        if not self._known.loaded:
            rows = await self._store.read(select(SignRow.session, SignRow.misses, SignRow.unsure))
            self._known.signs.update({row.session: (row.misses, row.unsure) for row in rows})
            self._known.loaded = True

    def reason(self, session: str, reply: Reply) -> str:
        """Why people are needed after an answer, "" where they are not."""
        misses, unsure = self._after(session, reply)
        if self._rules.misses and misses >= self._rules.misses:
            return "misses"
        return "unsure" if self._rules.unsure and unsure >= self._rules.unsure else ""

    def noted(self, answered: Answered, *, over: bool) -> list[Step]:
        """The step that keeps what an answer was; over: people were called, all begins anew."""
        before = self._known.signs.get(answered.session, _NONE)
        after = _NONE if over else self._after(answered.session, answered.reply)
        if after == before:
            return []
        if after == _NONE:
            del self._known.signs[answered.session]
        else:
            self._known.signs[answered.session] = after
        misses, unsure = after
        row = {
            "session": answered.session,
            "connector": answered.message.connector,
            "user": answered.message.user.id,
            "misses": misses,
            "unsure": unsure,
            "at": answered.at,
        }
        return [Step(_PUT, [row])]

    async def expire(self, before: float) -> None:
        """Remove those from before a unix time, and those that say nothing."""
        await self._store.execute(
            delete(SignRow).where((SignRow.at < before) | ((SignRow.misses == 0) & (SignRow.unsure == 0)))
        )

    def _after(self, session: str, reply: Reply) -> tuple[int, int]:
        misses, unsure = self._known.signs.get(session, _NONE)
        if reply.miss:
            return misses + 1, unsure
        if reply.confidence is not None and reply.confidence < self._rules.unsure_below:
            return 0, unsure + 1
        return _NONE
