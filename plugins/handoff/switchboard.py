"""The way of a talk to people and back: who gets it, what its customer is told, and what is counted of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import time

import structlog

from bot import Background, BotError, Catalogue, Channels, ConnectorError, Memory, Message, Session
from bot.store import History, Step, Store, Tally
from plugins.handoff.config import Config
from plugins.handoff.hours import Hours
from plugins.handoff.queue import minutes, position
from plugins.handoff.relay import Lines, tell_all, tell_customer, text_of, was_not_told
from plugins.handoff.tables import Handoff, Handoffs
from plugins.handoff.transcript import cut, transcript

log = structlog.get_logger(__name__)
ASK_EVERY = 60.0
"""Seconds for which a platform's word that people have a talk is good."""
REASONS = ("asked", "misses", "unsure", "vote", "tone", "plugin", "platform")
_LONGEST, _LISTED = 500, 40
"""Characters of a question that are kept, and those that a list shows."""


class Switchboard:
    """Connects customers with those who take their talks; made anew when the plugin is loaded."""

    def __init__(
        self,
        store: Store,
        memory: Memory,
        history: History,
        channels: Channels,
        catalogue: Catalogue,
        background: Background,
        config: Config,
        canned: Mapping[str, str],
    ) -> None:
        self.handoffs = Handoffs(store, memory)
        self.lines = Lines(self.handoffs, channels, catalogue, background)
        self.history = history
        self.channels = channels
        self.catalogue = catalogue
        self.config = config
        self.hours = Hours(config.hours)
        self.canned = canned

    # -- to people ------------------------------------------------------------------------------

    async def hand_over(
        self, message: Message, session: Session, reason: str, source: str | None = None
    ) -> str | None:
        """What to tell the customer whose talk goes to the platform's desk or the staff chats; None: nobody.

        source: of the answer that was not good enough; None where the customer asked, whatever made him.
        """
        rounds = await self.history.rounds(session.key, 1)
        automatic = source is not None
        if source is None:
            source = next((name for item in rounds for name in item.sources), "")
        asked = "\n".join(cut(text, _LONGEST) for text in (*(r.question for r in rounds), message.text))
        wanted = self.wanted(message, session, asked.strip(), reason)
        counts = self._counts(wanted, source)
        if await self._to_desk(message):
            await self.handoffs.begin(replace(wanted, by_platform=True), *counts)
            return self.welcome(wanted, session, automatic=automatic)
        if not self.channels.staff:
            return None
        due = self._due(wanted.asked_at)
        away = self.is_away()
        handoff = await self.handoffs.begin(replace(wanted, due_at=due, told_away=away), *counts)
        text = text_of(
            self.catalogue,
            handoff,
            "handoff_staff",
            chat=message.chat.title or message.chat.id,
            channel=message.bot,
            reason=self.catalogue.text(f"handoff_reason_{handoff.reason}", handoff.language),
            question=handoff.question,
        )
        if await tell_all(self.channels, self.channels.staff, text, f"handoff-{message.trace}"):
            return self.welcome(handoff, session, automatic=automatic)
        await self.close(handoff, by="nobody", trace=message.trace)
        return None

    def wanted(self, message: Message, session: Session, question: str, reason: str) -> Handoff:
        """The hand-over of a message, not begun yet."""
        now = time()
        return Handoff(
            session=session.key,
            connector=message.connector,
            bot=message.bot,
            chat=message.chat.id,
            user=message.user.id,
            user_name=(message.user.name or message.user.id)[:256],
            language=session.language,
            question=question,
            by_platform=False,
            trace=message.trace,
            asked_at=now,
            last_at=now,
            reason=reason if reason in REASONS else "plugin",
            grouped=message.chat.group,
            thread=message.chat.thread or "",
        )

    async def follow(self, message: Message, session: Session, holder: object) -> None:
        """Note what the platform's desk did: it took the talk, or it is not there any more."""
        handoff = self.handoffs.open.get(session.key)
        if holder in ("waiting", "people"):
            wanted = replace(self.wanted(message, session, "", "platform"), by_platform=True)
            handoff = await self.handoffs.begin(wanted, *self._counts(wanted, ""))
            if holder == "people" and handoff.state != "human":
                await self.handoffs.take(handoff, self.taken(handoff, "platform"), taken_at=time())
        elif holder in ("bot", "nobody") and handoff is not None and handoff.by_platform:
            await self.close(handoff, by="platform", trace=message.trace)

    # -- what a customer is told ----------------------------------------------------------------

    def welcome(self, handoff: Handoff, session: Session, *, automatic: bool) -> str:
        """What a customer is told whose talk was handed over: that, and when somebody will be there."""
        lines = [session.text("handoff_automatic")] if automatic else []
        if handoff.number == 0 or handoff.by_platform:
            lines.append(session.text("handoff_started"))
        elif self.is_away():
            lines.append(self.away(session))
        else:
            place = self.place_in_line(handoff)
            lines.append(session.text("handoff_started"))
            if place > self.config.busy_at:
                lines.append(session.text("handoff_busy", position=place, minutes=self.wait(place)))
        return "\n".join(lines)

    def away(self, session: Session) -> str:
        """That people are not there, and when they will be."""
        opening = self.hours.opening(time())
        if opening is None:
            return session.text("handoff_away_long")
        local = self.hours.local(opening)
        day = session.text(f"handoff_day_{local.weekday()}")
        when = session.text("handoff_when", month=local.month, date=local.day, day=day, time=f"{local:%H:%M}")
        return session.text("handoff_away", when=when)

    def is_away(self) -> bool:
        """Whether it is outside business hours."""
        return not self.hours.is_open(time())

    def again(self, handoff: Handoff, session: Session) -> str:
        """What a customer is told who asks for a person once more."""
        if handoff.state != "queued":
            return session.text("handoff_already")
        if self.is_away():
            return self.away(session)
        place = self.place_in_line(handoff)
        return session.text("handoff_position", position=place, minutes=self.wait(place))

    def place_in_line(self, handoff: Handoff) -> int:
        """Where a customer stands among those who wait: 1 is next."""
        return position(handoff, self.handoffs.open.values())

    def wait(self, place: int) -> int:
        """Minutes that it takes from there, roughly."""
        return minutes(place, self.handoffs.held.takes, time())

    # -- the end --------------------------------------------------------------------------------

    async def end(self, handoff: Handoff, *steps: Step, by: str, trace: str) -> None:
        """End a talk once staff were told all of it; what its customer says from then on is for the bot."""
        async with self.handoffs.held.lock(handoff.number):
            await self.lines.tell_rest(handoff)
            await self.close(handoff, *steps, by=by, trace=trace)

    async def close(self, handoff: Handoff, *steps: Step, by: str, trace: str) -> None:
        """End a talk, and count who ended it."""
        now = time()
        label = "agent" if ":" in by else by
        count = Tally.add(now, handoff.place, "closed", label, total=max(0.0, now - handoff.asked_at))
        await self.handoffs.close(handoff, count, *steps, by=by, trace=trace, now=now)

    def is_over(self, handoff: Handoff) -> bool:
        """Whether nobody went on with a talk for so long that it is the bot's again.

        While nobody has taken it, only the time counts when people are there.
        """
        lasts, now = self.config.release_after, time()
        if lasts is None or now - handoff.last_at <= lasts:
            return False
        until = self.hours.after(handoff.last_at, lasts) if handoff.state == "queued" else now
        return until is not None and until <= now

    async def give_back(self, handoff: Handoff) -> None:
        """End what has lasted too long, unless people have it at the platform's desk: only they end that."""
        try:
            if not handoff.by_platform:
                await self.lines.tell(handoff)
                text = text_of(self.catalogue, handoff, "handoff_released_staff")
                await self.tell_staff(handoff, text, f"handoff-{handoff.number}-over")
            elif await self.with_people(handoff):
                return
            await self.end(handoff, by="time", trace="")
        except BotError as error:
            log.error("a talk cannot be given back", number=handoff.number, problem=str(error))

    async def give_up(self, handoff: Handoff) -> None:
        """Tell a customer of whom no staff chat will ever hear that nobody comes."""
        if handoff.by_platform or handoff.state != "queued":
            return
        if await was_not_told(self.channels, f"handoff-{handoff.trace}"):
            contact = self.catalogue.text("contact", handoff.language)
            said = self.catalogue.text("handoff_nobody", handoff.language, contact=contact)
            await tell_customer(self.channels, handoff, said, f"handoff-{handoff.number}-nobody")
            await self.close(handoff, by="nobody", trace="")

    # -- the first reply ------------------------------------------------------------------------

    async def remind(self, handoff: Handoff) -> None:
        """Tell those who look after it that a customer has waited too long for a first reply."""
        now, sla = time(), self.config.sla
        if handoff.due_at is None or handoff.due_at > now or handoff.by_platform:
            return
        waited = round((now - handoff.asked_at) / 60)
        question = cut(" ".join(handoff.question.split()), _LISTED)
        text = text_of(self.catalogue, handoff, "handoff_due", minutes=waited, question=question)
        chats = sla.escalate_to or self.channels.staff
        await tell_all(self.channels, chats, text, f"handoff-{handoff.number}-due-{handoff.escalations}")
        done = handoff.escalations + 1
        due = self._due(now) if done < sla.repeats else None
        await self.handoffs.change(handoff, due_at=due, escalations=done)

    def _due(self, since: float) -> float | None:
        first_reply = self.config.sla.first_reply
        return None if first_reply is None else self.hours.after(since, first_reply)

    # -- the pieces -----------------------------------------------------------------------------

    async def tell_staff(self, handoff: Handoff, text: str, key: str, besides: str = "") -> bool:
        """Tell the chats where a hand-over is of interest, but not the one `besides`."""
        chats = [chat for chat in (*self.channels.staff, handoff.desk) if chat and chat != besides]
        return await tell_all(self.channels, chats, text, key)

    async def transcript(self, handoff: Handoff, session: Session) -> str:
        """What was said so far, for staff."""
        rounds = await self.history.rounds(handoff.session, 5)
        return transcript(rounds, await self.handoffs.lines(handoff.number, 30), session.text)

    def taken(self, handoff: Handoff, by: str) -> Step:
        """The step that counts that somebody took a talk."""
        now = time()
        return Tally.add(now, handoff.place, "taken", by, total=max(0.0, now - handoff.asked_at))

    def _counts(self, handoff: Handoff, source: str) -> list[Step]:
        at, place = handoff.asked_at, handoff.place
        return [
            Tally.add(at, place, "escalated", handoff.reason),
            Tally.add(at, place, "escalated_source", source),
        ]

    def can_hand_over(self, message: Message) -> bool:
        """Whether there is anybody to hand a talk to."""
        return bool(self.channels.staff) or self.channels.has_desk(message)

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
