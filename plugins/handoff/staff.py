"""What agents do with a talk: take it, answer through the bot, note, end, give back, list.

All of it may be handled again after a crash: who has taken a talk takes it again, and what was sent or kept
is known by the message that brought it.
"""

from __future__ import annotations

from time import time

import structlog

from bot import Attachment, ConnectorError, Facts, Message, Reply, Session, Undeliverable
from bot.store import Audit
from plugins.handoff.relay import said_in, tell_customer
from plugins.handoff.switchboard import Switchboard
from plugins.handoff.tables import Handoff, Line
from plugins.handoff.transcript import cut

log = structlog.get_logger(__name__)
STAFF = ("agents", "admins")
_LISTED = 40
_MEDIA = {"image": "image.jpg", "voice": "voice.amr", "video": "video.mp4", "file": "file"}
"""The media that are passed on to customers, with a name for those that have none."""


def me(message: Message) -> str:
    """An agent by the identity that the platform vouches for."""
    return f"{message.bot}:{message.user.id}"


def is_staff(facts: Facts) -> bool:
    """Whether the sender of a message is an agent or admin."""
    return not facts.roles.isdisjoint(STAFF)


class Agent:
    """One message of an agent, and what he wants done with hand-overs."""

    def __init__(self, board: Switchboard, message: Message, session: Session, facts: Facts) -> None:
        self._board = board
        self._message = message
        self._session = session
        self._is_admin = "admins" in facts.roles
        self._me = me(message)
        self._desk = f"{message.bot}:{message.chat.id}"

    @property
    def is_at_work(self) -> bool:
        """Whether staff may work in the chat: among customers nothing about others is shown."""
        places = (*self._board.channels.staff, *self._board.config.sla.escalate_to)
        return not self._message.chat.group or self._desk in places

    def held(self) -> list[Handoff]:
        """The talks that the agent took in this private chat."""
        if self._message.chat.group:
            return []
        mine = (item for item in self._board.handoffs.open.values() if item.agent == self._me)
        return [item for item in mine if item.desk == self._desk]

    # -- the commands ---------------------------------------------------------------------------

    async def claim(self, args: str) -> str:
        """Take a talk; the answer shows what was said in it."""
        handoff = self._named(args)
        if handoff is None:
            return self._unknown(args)
        taken = await self._take(handoff)
        if isinstance(taken, str):
            return taken
        shown = await self._board.transcript(taken, self._session)
        return self._text("handoff_claimed", taken, channel=taken.bot, transcript=shown or taken.question)

    async def reply(self, args: str) -> str | None:
        """Say something to the customer."""
        handoff, text = self._find(args)
        if handoff is None:
            return await self._done_before(args, "handoff_sent") or self._unknown(args)
        if not text and not self._has_media():
            return self._session.text("handoff_empty", command="/reply", number=handoff.number)
        return await self.say(handoff, text) or self._text("handoff_sent", handoff)

    async def canned(self, args: str) -> str | None:
        """Say something prepared; without a name, list what there is."""
        board = self._board
        handoff, name = self._find(args)
        if not args.strip() or (handoff is not None and not name):
            names = "\n".join(f"{name}: {cut(text, _LISTED)}" for name, text in board.canned.items())
            return names or self._session.text("handoff_canned_none")
        if handoff is None:
            return await self._done_before(args, "handoff_sent") or self._unknown(args)
        text = board.canned.get(name)
        if text is None:
            return self._session.text("handoff_canned_unknown", name=cut(name, _LISTED))
        return await self.say(handoff, text) or self._text("handoff_sent", handoff)

    async def note(self, args: str) -> str:
        """Write down something for other agents."""
        handoff, text = self._find(args)
        if handoff is None:
            return await self._done_before(args, "handoff_noted") or self._unknown(args)
        if not text:
            return self._session.text("handoff_empty", command="/note", number=handoff.number)
        audit = Audit.add(self._message, "handoff.note", f"#{handoff.number}")
        line = Line("note", self._name, text)
        await self._board.handoffs.say(handoff, line, self._message.trace, time(), audit)
        return self._text("handoff_noted", handoff)

    async def end(self, args: str, *, release: bool) -> str:
        """End a talk, or give it back to the bot; its customer is told unless the platform does.

        What the platform will never give back is struck off.
        """
        board, message = self._board, self._message
        handoff = self._named(args)
        said = "handoff_released_staff" if release else "handoff_closed_staff"
        if handoff is None:
            number, _ = split(args)
            if not await board.handoffs.was_closed_by(number, message.trace):
                return self._unknown(args)
            return self._session.text(said, number=number)
        await board.lines.tell(handoff)
        if handoff.by_platform:
            try:
                await board.channels.take_back(handoff.place)
            except Undeliverable as error:
                log.error(
                    "a platform will not give a talk back", number=handoff.number, problem=error.problem
                )
                said = "handoff_gone"
        else:
            told = board.catalogue.text("handoff_released" if release else "handoff_closed", handoff.language)
            await tell_customer(board.channels, handoff, told, f"handoff-{message.trace}")
        action = "handoff.release" if release else "handoff.close"
        audit = Audit.add(message, action, f"#{handoff.number}")
        await board.end(handoff, audit, by=self._me, trace=message.trace)
        return self._session.text(said, number=handoff.number)

    async def list_open(self, args: str) -> str:
        """The talks that wait or that people have, oldest first; of a number, what was said in it."""
        board = self._board
        if args.strip():
            handoff = self._named(args)
            return await board.transcript(handoff, self._session) if handoff else self._unknown(args)
        lines = [
            self._session.text(
                "handoff_list_item",
                number=handoff.number,
                channel=handoff.bot,
                user=handoff.user_name,
                minutes=round((time() - handoff.asked_at) / 60),
                state=self._state(handoff),
                question=cut(" ".join(handoff.question.split()), _LISTED),
            )
            for handoff in sorted(board.handoffs.open.values(), key=lambda handoff: handoff.number)
        ]
        return "\n".join(lines) or self._session.text("handoff_none")

    # -- to the customer ------------------------------------------------------------------------

    async def say_plainly(self, held: list[Handoff]) -> str | None:
        """What is no command, in a private chat: it is for the customer whose talk the agent has here."""
        if len(held) > 1:
            numbers = ", ".join(f"#{handoff.number}" for handoff in held)
            return self._session.text("handoff_several", numbers=numbers)
        return await self.say(held[0], self._message.text)

    async def say(self, handoff: Handoff, text: str) -> str | None:
        """Pass something on to the customer in the bot's voice; returns what went wrong.

        It is kept before it is sent, so that a crash between the two sends it when this is handled again.
        """
        board, trace = self._board, self._message.trace
        taken = await self._take(handoff)
        if isinstance(taken, str):
            return taken
        media = await self._media()
        if media is None:
            return self._text("handoff_no_media", taken)
        line = Line("agent", self._name, text or said_in(self._message))
        audit = Audit.add(self._message, "handoff.reply", f"#{taken.number}")
        await board.handoffs.say(taken, line, trace, time(), audit)
        key = "handoff_reply_group" if taken.grouped else "handoff_reply"
        said = board.catalogue.text(key, taken.language, text=text, user=taken.user_name)
        reply = Reply(said.strip(), attachments=media)
        if not await tell_customer(board.channels, taken, reply, f"handoff-{trace}"):
            await board.handoffs.unsay(trace)
            return self._text("handoff_not_sent", taken)
        now = time()
        await board.handoffs.change(taken, last_at=now, replied_at=taken.replied_at or now, due_at=None)
        return None

    async def _take(self, handoff: Handoff) -> Handoff | str:
        """The talk, which is the agent's now; else why it is not."""
        board, message = self._board, self._message
        if handoff.by_platform:
            return self._text("handoff_platform", handoff)
        if handoff.agent == self._me and handoff.desk == self._desk:
            return handoff
        if handoff.agent not in ("", self._me) and not self._is_admin:
            return self._text("handoff_held", handoff, agent=handoff.agent_name)
        now = time()
        steps = [Audit.add(message, "handoff.claim", f"#{handoff.number}")]
        if handoff.state == "queued":
            steps.append(board.taken(handoff, "agent"))
        values = {"agent": self._me, "agent_name": self._name, "desk": self._desk}
        async with board.handoffs.held.lock(handoff.number):
            await board.lines.tell_rest(handoff)
            taken_at = handoff.taken_at or now
            taken = await board.handoffs.take(handoff, *steps, taken_at=taken_at, **values)
        if taken is None:  # somebody was faster
            known = board.handoffs.numbered(handoff.number)
            if known is None:
                return self._unknown(str(handoff.number))
            return self._text("handoff_held", known, agent=known.agent_name)
        if handoff.state == "queued":
            board.handoffs.held.takes.append(now)
            told = board.catalogue.text("handoff_taken", taken.language)
            await tell_customer(board.channels, taken, told, f"handoff-{taken.number}-taken")
        told = self._text("handoff_claimed_staff", taken, agent=self._name)
        await board.tell_staff(taken, told, f"handoff-{message.trace}-taken", besides=self._desk)
        return taken

    # -- the pieces -----------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        """What other agents know this one by; customers never see it."""
        return (self._message.user.name or self._message.user.id)[:256]

    def _find(self, args: str) -> tuple[Handoff | None, str]:
        """The open hand-over that a command names, and the rest of the line."""
        number, rest = split(args)
        return self._board.handoffs.numbered(number), rest

    def _named(self, args: str) -> Handoff | None:
        """The open hand-over whose number is all that a command says."""
        handoff, rest = self._find(args)
        return None if rest else handoff

    def _unknown(self, args: str) -> str:
        named = args.strip().removeprefix("#")
        return self._session.text("handoff_unknown", number=cut(named, _LISTED))

    async def _done_before(self, args: str, key: str) -> str | None:
        """What was answered when this message was handled before, if that ended in a crash."""
        number, _ = split(args)
        if not number or await self._board.handoffs.said(self._message.trace) != number:
            return None
        return self._session.text(key, number=number)

    def _state(self, handoff: Handoff) -> str:
        if handoff.by_platform:
            return self._session.text("handoff_state_platform")
        if handoff.state == "queued":
            return self._session.text("handoff_state_queued")
        return self._session.text("handoff_state_human", agent=handoff.agent_name)

    def _text(self, key: str, handoff: Handoff, **fields: object) -> str:
        return self._session.text(key, number=handoff.number, user=handoff.user_name, **fields)

    def _has_media(self) -> bool:
        return any(part.type in _MEDIA for part in self._message.segments)

    async def _media(self) -> tuple[Attachment, ...] | None:
        """The media of the agent's message; None where the platform does not give one."""
        found = list[Attachment]()
        for part in self._message.segments:
            if part.type in ("image", "voice", "video", "file"):
                try:
                    data = await self._board.channels.fetch(self._message, part)
                except ConnectorError as error:
                    log.warning("an agent's medium cannot be passed on", problem=error.problem)
                    return None
                found.append(Attachment(part.type, part.text or _MEDIA[part.type], data))
        return tuple(found)


def split(args: str) -> tuple[int, str]:
    """The number that a command names, 0 where it names none, and the rest of the line."""
    head, *tail = args.split(maxsplit=1) or [""]
    named, rest = head.removeprefix("#"), tail[0].strip() if tail else ""
    number = int(named) if named.isdecimal() and len(named) < 19 else 0  # what a database can hold
    return number, rest
