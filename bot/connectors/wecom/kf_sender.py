"""Everything an account writes: answers with menus below them, welcomes, and notices to those who wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import structlog

from bot.connectors.fields import string
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.content import plain_text
from bot.connectors.wecom.kf_desk import BUSY, Desk, refused
from bot.connectors.wecom.kf_menu import MAX_HEAD, buttons, menu
from bot.connectors.wecom.kf_messages import WELCOME
from bot.connectors.wecom.kf_talks import QUOTA, Talk, Talks
from bot.errors import ConnectorError, Undeliverable
from bot.metrics import LostReason, Metrics
from bot.render import measure
from bot.reply import Attachment, Outgoing

log = structlog.get_logger(__name__)
MAX_TEXT = 2048
"""Bytes of a text (path/94677)."""
OVER_QUOTA = 95001
USED_CODE = 95017
NOT_OURS = frozenset({95013, 95018})
"""The conversation has ended, or is in a state in which the bot may not write."""


class Sender:
    """Sends for one account.

    `label` looks up a text (catalogue key, text of the answer); `lost` is told (customer, delivery) when the
    platform says that a conversation is not the bot's, though it was thought to be.
    """

    def __init__(
        self,
        name: str,
        kf_id: str,
        api: QyApi,
        desk: Desk,
        talks: Talks,
        metrics: Metrics,
        *,
        feedback: bool,
        label: Callable[[str, str], str],
        lost: Callable[[str, str], None],
    ) -> None:
        self._name = name
        self._kf_id = kf_id
        self._api = api
        self._desk = desk
        self._talks = talks
        self._metrics = metrics
        self._feedback = feedback
        self._label = label
        self._lost = lost

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send one part; see `Connector.send`. Of its messages only the first must arrive."""
        target = outgoing.target
        if target.return_path.startswith(WELCOME):
            contents = self._written(outgoing)
            return await self._answer_event(target.return_path.removeprefix(WELCOME), outgoing, contents[0])
        talk = self._talks.of(target.chat)
        code = talk.granted(target)
        if code:
            try:
                told = await self._answer_event(code, outgoing, _text(plain_text(outgoing)))
            except Undeliverable as error:
                log.warning("a notice was refused", bot=self._name, problem=error.problem)
                talk.spend()
            else:
                talk.spend()
                return told
        if talk.human and await self._with_people(target.chat):
            self._count("human")
            self._lost(target.chat, message_key(outgoing.key))
            raise Undeliverable("the conversation is with a human, the bot may not write")
        contents = await self._contents(outgoing)
        first = await self._send(outgoing, talk, contents[0], message_key(outgoing.key))
        for number, content in enumerate(contents[1:], start=1):
            try:
                await self._send(outgoing, talk, content, message_key(f"{outgoing.key}/{number}"))
            except ConnectorError as error:
                if error.patience is None and not isinstance(error, Undeliverable):
                    raise
                log.warning("the menu of an answer is left out", bot=self._name, problem=error.problem)
        return first

    async def _with_people(self, customer: str) -> bool:
        try:
            return await self._desk.is_human(customer)
        except ApiError as error:
            raise _judged(error) from None

    async def _send(self, outgoing: Outgoing, talk: Talk, content: Mapping[str, Any], msgid: str) -> str:
        """Send one message, which the customer is shown once, however often it is tried.

        A msgid that was used before is refused, the documentation says (path/94677), though not by which
        errcode. One that is not known may mean that: where a try broke off it does, and after a start who
        knows, since an earlier process may have sent it.
        """
        if talk.delivered(msgid):
            return msgid
        if not talk.may_send(msgid):
            self._count("quota")
            raise Undeliverable(f"{QUOTA} messages follow the customer's last one already")
        customer = outgoing.target.chat
        place = {"touser": customer, "open_kfid": self._kf_id, "msgid": msgid}
        try:
            answer = await self._api.post("kf/send_msg", {**place, **content}, part=msgid)
        except ApiError as error:
            if error.unknown and talk.delivered(msgid) is not None:
                log.warning("a message was refused that seems to be there", problem=error.problem)
                talk.note(msgid, delivered=True)
                return msgid
            if _unclear(error):
                talk.note(msgid, delivered=False)
            if error.code is not None:
                talk.sent.discard(msgid)
            if error.code == OVER_QUOTA:
                self._count("quota")
            if error.code in NOT_OURS:
                self._count("state")
                self._lost(customer, msgid)
            raise _judged(error) from None
        talk.note(msgid, delivered=True)
        return string(answer.get("msgid")) or msgid

    async def _answer_event(self, code: str, outgoing: Outgoing, content: Mapping[str, Any]) -> str:
        """Send what an event entitles to, once. Raises Undeliverable when the code is too old or was used."""
        msgid, talk = message_key(outgoing.key), self._talks.of(outgoing.target.chat)
        try:
            payload = {"code": code, "msgid": msgid, **content}
            await self._api.post("kf/send_msg_on_event", payload, part=msgid)
        except ApiError as error:
            if (error.unknown or error.code == USED_CODE) and talk.delivered(msgid) is not None:
                log.warning("a notice was refused that seems to be there", problem=error.problem)
                return msgid
            if refused(error):
                raise Undeliverable(error.problem, code=error.code) from None
            if _unclear(error):
                talk.note(msgid, delivered=False)
            raise
        return msgid

    # -- what is sent -----------------------------------------------------------------------

    async def _contents(self, outgoing: Outgoing) -> list[dict[str, Any]]:
        medium = await self._medium(outgoing.attachment) if outgoing.attachment else None
        return [medium] if medium else self._written(outgoing)

    def _written(self, outgoing: Outgoing) -> list[dict[str, Any]]:
        """One message where the text fits above its buttons, else the text and a menu of its own."""
        text = plain_text(outgoing)
        clicks = buttons(outgoing, lambda key: self._label(key, text), feedback=self._feedback)
        if not clicks:
            return [_text(text)]
        if measure(text, "bytes") <= MAX_HEAD:
            return [menu(text, clicks)]
        votes = self._feedback and outgoing.feedback
        return [_text(text), menu(self._label("kf_feedback_ask", text) if votes else "", clicks)]

    async def _medium(self, attachment: Attachment) -> dict[str, Any] | None:
        """An uploaded medium, None where the platform will not have it: a line of text goes then."""
        try:
            media_id = await self._api.upload(attachment.kind, attachment.name, attachment.data)
        except ApiError as error:
            if not error.permanent:
                raise _judged(error) from None
            log.warning("a medium was refused", bot=self._name, kind=attachment.kind, problem=error.problem)
            return None
        return {"msgtype": attachment.kind, attachment.kind: {"media_id": media_id}}

    def _count(self, reason: LostReason) -> None:
        self._metrics.lost.labels(self._name, reason).inc()


def message_key(key: str) -> str:
    """The platform's idempotency key for an outbox key: 32 of [0-9a-f]."""
    return blake2b(key.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _unclear(error: ApiError) -> bool:
    """Whether a message may have been taken all the same."""
    return error.method.startswith("kf/send") and error.code in (None, BUSY) and error.retry_after is None


def _judged(error: ApiError) -> ConnectorError:
    """What becomes of a part: never, or as the error says."""
    return Undeliverable(error.problem, code=error.code) if error.permanent else error


def _text(text: str) -> dict[str, Any]:
    return {"msgtype": "text", "text": {"content": text}}
