"""Giving talks to people and back: what it takes, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import time

import structlog

from bot import BotError, Catalogue, Channels, ConnectorError, Message, Reply, Session, Undeliverable
from bot.store import History
from plugins.handoff.base import Config
from plugins.handoff.staff import tell, tell_staff, text_of
from plugins.handoff.tables import Handoff, Handoffs

log = structlog.get_logger(__name__)
ASK_EVERY = 60.0
"""Seconds for which a platform's word that people have a talk is good."""
LONGEST = 500
"""Characters of a question that are kept."""


@dataclass(frozen=True, slots=True)
class Talks:
    """What is needed to hand talks over and back."""

    handoffs: Handoffs
    channels: Channels
    catalogue: Catalogue
    history: History
    config: Config

    # -- to people --------------------------------------------------------------------------

    async def hand_over(self, message: Message, session: Session, reason: str) -> str | None:
        """Give a talk to the platform's desk, else tell the staff chats: what the customer is told.

        None where nobody can be told.
        """
        wanted = await self._wanted(message, session, reason)
        if await self._to_desk(message):
            await self.handoffs.begin(replace(wanted, by_platform=True))
            return session.text("handoff_started")
        if not self.channels.staff:
            return None
        handoff = await self.handoffs.begin(wanted)
        text = text_of(
            self.catalogue,
            handoff,
            "handoff_staff",
            chat=message.chat.title or message.chat.id,
            channel=message.bot,
            question=handoff.question,
            reason=self.catalogue.text(f"handoff_reason_{reason}", handoff.language),
        )
        if await tell_staff(self.channels, text, f"handoff-{message.trace}"):
            return self.place_in_line(handoff, session, "handoff_started")
        await self.handoffs.close(handoff, by="nobody", trace=message.trace, now=time())
        return None

    def place_in_line(self, handoff: Handoff, session: Session, usual: str) -> str:
        """What a customer who waits is told: when people come, how many are before it, or the usual text."""
        hours, now = self.config.hours, time()
        if not hours.is_open(now):
            opening = hours.next_open(now)
            when = "" if opening is None else f"{hours.local(opening):%m-%d %H:%M}"
            return session.text("handoff_away", when=when) if when else session.text("handoff_started")
        before = sum(one.number < handoff.number for one in self.handoffs.waiting)
        if not handoff.waits or not before:
            return session.text(usual)
        return session.text("handoff_in_line", before=before)

    async def _wanted(self, message: Message, session: Session, reason: str) -> Handoff:
        rounds = await self.history.rounds(session.key, 1)
        last = rounds[-1] if rounds else None
        said = [last.question] if last and last.question != message.text else []
        rules, hours = self.config.answering, self.config.hours
        due = hours.after(time(), rules.first_reply) if rules else None
        return replace(
            wanted(message, session, reason),
            question="\n".join(cut(text, LONGEST) for text in (*said, message.text) if text),
            source=(last.sources[0] if last and last.sources else "")[:256],
            due_at=due,
        )

    async def _to_desk(self, message: Message) -> bool:
        """Whether the platform's own desk took the talk."""
        if not self.channels.has_desk(message):
            return False
        try:
            await self.channels.hand_over(message)
        except ConnectorError as error:
            log.error("the platform's desk did not take a talk", bot=message.bot, problem=error.problem)
            return False
        return True

    # -- between them -----------------------------------------------------------------------

    async def answer(self, handoff: Handoff, text: str, key: str) -> bool:
        """Say something to the customer for staff, whose names it never hears; False where that cannot be."""
        said = self.catalogue.text("handoff_reply", handoff.language, text=text)
        if handoff.grouped:
            said = f"@{handoff.user_name} {said}"
        return await tell(self.channels, handoff.place, said, key)

    # -- back to the bot --------------------------------------------------------------------

    async def end(self, handoff: Handoff, message: Message, told: str) -> str:
        """Give a talk back for a member of staff; returns the catalogue key of what staff are told.

        told: that of what the customer is, unless the platform does.
        """
        said = "handoff_released_staff"
        if handoff.by_platform:
            try:
                await self.channels.take_back(handoff.place)
            except Undeliverable as error:
                log.error(
                    "a platform will not give a talk back", number=handoff.number, problem=error.problem
                )
                said = "handoff_gone"
        else:
            text = self.catalogue.text(told, handoff.language)
            await tell(self.channels, handoff.place, text, f"handoff-{message.trace}")
        by = f"{message.bot}:{message.user.id}"
        await self.handoffs.close(handoff, by=by, trace=message.trace, now=time())
        return said

    async def give_back(self, handoff: Handoff) -> None:
        """End what has lasted too long, unless people have it at the platform's desk: only they end that."""
        try:
            if not handoff.by_platform:
                text = text_of(self.catalogue, handoff, "handoff_released_staff")
                await tell_staff(self.channels, text, f"handoff-{handoff.number}-over")
            elif await self.with_people(handoff):
                return
            await self.handoffs.close(handoff, by="time", trace="", now=time())
        except BotError as error:
            log.error("a talk cannot be given back", number=handoff.number, problem=str(error))

    async def with_people(self, handoff: Handoff) -> bool:
        """Whether the platform's desk has the talk, as far as it tells.

        It need not tell of an end by itself: WeCom's conversations just run out after 48 h.
        """
        seen = self.handoffs.held.seen
        if time() - seen.get(handoff.number, handoff.asked_at) < ASK_EVERY:
            return True
        seen[handoff.number] = time()
        try:
            return await self.channels.with_people(handoff.place)
        except ConnectorError as error:
            log.warning("a desk does not tell who has a talk", number=handoff.number, problem=error.problem)
            return True

    def is_over(self, handoff: Handoff) -> bool:
        """Whether the customer has said nothing for so long that the bot goes on."""
        after = self.config.release_after
        return after is not None and time() - handoff.last_at > after


def wanted(message: Message, session: Session, reason: str, *, by_platform: bool = False) -> Handoff:
    """A hand-over of the talk that a message is part of."""
    now = time()
    return Handoff(
        session=session.key,
        connector=message.connector,
        bot=message.bot,
        chat=message.chat.id,
        user=message.user.id,
        user_name=(message.user.name or message.user.id)[:256],
        language=session.language,
        question="",
        by_platform=by_platform,
        trace=message.trace,
        asked_at=now,
        last_at=now,
        grouped=message.chat.group,
        reason=reason,
    )


def joined(answer: Reply, more: str) -> Reply:
    """An answer with something said after it."""
    return replace(answer, text=f"{answer.text}\n\n{more}", hand_over="")


def cut(text: str, length: int) -> str:
    """A text of so many characters at most."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
