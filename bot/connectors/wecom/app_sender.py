"""What an application sends by itself: message/send to members, appchat/send to its group chats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from bot.config_connectors import WecomAppSettings
from bot.connectors.wecom import markdown
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.content import article, is_playable, plain_text
from bot.connectors.wecom.held import HeldSends
from bot.connectors.wecom.pace import Limit, Pace
from bot.errors import ConnectorError, Undeliverable
from bot.message import clean_text
from bot.metrics import HeldReason, LostReason, Metrics
from bot.reply import Outgoing

log = structlog.get_logger(__name__)
MAX_TEXT = 2048
"""Bytes of UTF-8; WeCom cuts what is longer in silence."""
APPCHAT = "appchat:"
"""Begins the id of a group chat that the application has made."""
PER_MEMBER = (Limit(30, 60.0), Limit(1000, 3600.0))
PER_APPCHAT = (Limit(200, 60.0), Limit(10_000, 86_400.0))
"""What one member is shown; WeCom drops more than that without an error (documents 90236 and 90312)."""
_NOBODY = 81013
_MISSED: tuple[LostReason, ...] = ("invaliduser", "unlicenseduser")


class AppSender:
    """Sends for one application, within what WeCom delivers."""

    def __init__(self, settings: WecomAppSettings, *, api: QyApi, metrics: Metrics) -> None:
        self._name = settings.name
        self._agent_id = settings.agent_id
        self._markdown = settings.markdown
        self._api = api
        self._metrics = metrics
        self._held = HeldSends(metrics, settings.name)
        self._members = Pace(*PER_MEMBER)
        self._appchats = Pace(*PER_APPCHAT)

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send one part; returns WeCom's msgid.

        Raises ApiError as WeCom refused it, ConnectorError while the receiver has had all it is shown
        for now, Undeliverable where WeCom took the call but reaches nobody.
        """
        chat = outgoing.target.chat
        self._admit(outgoing)
        if chat.startswith(APPCHAT):
            place = {"chatid": chat.removeprefix(APPCHAT)}
            answer = await self._deliver("appchat/send", place, outgoing)
        else:
            answer = await self._deliver(
                "message/send", {"touser": chat, "agentid": self._agent_id}, outgoing
            )
            self._check_receivers(chat, answer, outgoing)
        return str(answer["msgid"]) if answer.get("msgid") else None

    # -- what WeCom would drop in silence ---------------------------------------------------

    def _admit(self, outgoing: Outgoing) -> None:
        chat = outgoing.target.chat
        group = chat.startswith(APPCHAT)
        wait = (self._appchats if group else self._members).take(chat)
        if not wait:
            return
        reason: HeldReason = "appchat" if group else "member"
        if self._held.note(reason, outgoing.key):
            self._warn("WeCom would drop more", reason, outgoing, wait=round(wait))
        raise ConnectorError("one receiver is shown so many messages only", retry_after=wait)

    def _check_receivers(self, chat: str, answer: Mapping[str, Any], outgoing: Outgoing) -> None:
        """A success that names the receivers it did not reach, in lower case."""
        for reason in _MISSED:
            missed = {user for user in str(answer.get(reason) or "").split("|") if user}
            if missed:
                self._metrics.lost.labels(self._name, reason).inc()
                self._warn("WeCom did not deliver", reason, outgoing, receivers=len(missed))
                if missed.issuperset(chat.lower().split("|")):
                    raise Undeliverable(f"message/send: {reason}", code=_NOBODY)

    def _warn(self, event: str, reason: str, outgoing: Outgoing, **facts: object) -> None:
        log.warning(event, bot=self._name, reason=reason, outbox=outgoing.id, **facts)

    # -- what is sent -----------------------------------------------------------------------

    async def _deliver(self, method: str, place: Mapping[str, Any], outgoing: Outgoing) -> dict[str, Any]:
        """Send a part as what it is; what WeCom refuses of it, as text."""
        if outgoing.attachment is not None or (outgoing.markdown and self._markdown):
            try:
                return await self._send(method, {**place, **await self._shown(outgoing)}, outgoing)
            except ApiError as error:
                if not error.refused:
                    raise
                log.warning("refused, sending text instead", bot=self._name, problem=error.problem)
        return await self._send(method, {**place, **_content("text", plain_text(outgoing))}, outgoing)

    async def _send(self, method: str, payload: Mapping[str, Any], outgoing: Outgoing) -> dict[str, Any]:
        return await self._api.send(method, payload, part=outgoing.key)

    async def _shown(self, outgoing: Outgoing) -> dict[str, Any]:
        """The message; a recording of a kind that WeCom does not play goes as a file."""
        item = outgoing.attachment
        if item is None:
            return _content("markdown", markdown.subset(clean_text(outgoing.text)))
        if item.kind == "link":
            return {"msgtype": "news", "news": {"articles": [article(item)]}}
        kind = "file" if item.kind == "voice" and not is_playable(item) else item.kind
        media_id = await self._api.upload(kind, item.name, item.data, part=outgoing.key)
        return {"msgtype": kind, kind: {"media_id": media_id}}


def _content(kind: str, text: str) -> dict[str, Any]:
    return {"msgtype": kind, kind: {"content": text}}
