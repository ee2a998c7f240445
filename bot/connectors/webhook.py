"""The generic webhook: any system that can sign a POST is a chat platform."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp import web

from bot.config_connectors import WebhookSettings
from bot.connectors.base import Capabilities, Inlet, Status
from bot.connectors.http import Refused, json_object, json_response, read_body
from bot.connectors.standard_webhooks import SignatureError, Signer
from bot.errors import ConnectorError, Overloaded, StoreError, Undeliverable
from bot.message import Chat, Message, User
from bot.reply import Outgoing, Target

MAX_TEXT = 4000
"""Characters of one reply: its payload stays below the 20 kB that receivers can be counted on to take."""
RETRIES = (1.0, 5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
"""Seconds before each next try: quick ones for a receiver that restarts, then ever slower ones."""
GIVE_UP_AFTER = 3 * 24 * 3600.0
SEND_WITHIN = 20.0
CONNECTIONS = 128
LONGEST_RETRY_AFTER = 3600.0
MAX_IDENTITY = 128
_DRAINED = 64 * 1024
_SLOW_DOWN = (429, 502, 503, 504)
_NO_IDENTITY = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Webhook:
    """One source of messages, trusted by its secret.

    Without `reply_url` the source waits for its replies and can fetch them later; with one it is sent
    each reply in a signed request of its own.
    """

    kind = "webhook"

    def __init__(self, settings: WebhookSettings, *, max_body: int) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(
            max_text=MAX_TEXT,
            pull=settings.reply_url is None,
            shows_sources=True,
            retry_schedule=RETRIES,
            give_up_after=GIVE_UP_AFTER,
            speaks_first=settings.reply_url is not None,
        )
        self._reply_url = settings.reply_url
        self._wait = settings.wait
        self._max_body = max_body
        self._signer = Signer([secret.get_secret_value() for secret in settings.secret])
        self._inlet: Inlet | None = None
        self._client: aiohttp.ClientSession | None = None

    def routes(self) -> list[web.AbstractRouteDef]:
        """The inbound route, and the one to fetch replies from."""
        here = f"/webhook/{self.name}"
        return [
            web.post(here, self._receive),
            web.get(here + "/replies/{id:.+}", self._replies, allow_head=False),
        ]

    async def start(self, inlet: Inlet) -> None:
        """Begin to accept messages."""
        self._inlet = inlet
        self.status.state = "ok"

    async def stop(self) -> None:
        """Accept nothing more; replies are still sent."""
        self._inlet = None
        self.status.state = "stopped"

    async def close(self) -> None:
        """Close the connections to the receiver."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def typing(self, target: Target) -> None:
        """A webhook has no such thing."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """A webhook gets whole replies only."""
        return None

    # -- inbound ----------------------------------------------------------------------------

    async def _receive(self, request: web.Request) -> web.Response:
        """Verify, commit, answer. A client that leaves does not stop the message's turn."""
        inlet, delivery, body = await self._open(request)
        message = self._message(delivery, json_object(body))
        try:
            receipt = await inlet.receive(message)
        except Overloaded as error:
            raise Refused(503, "too many messages are waiting", retry_after=error.retry_after) from None
        except StoreError:
            raise Refused(503, "the message could not be stored", retry_after=5) from None
        if self._reply_url is not None:
            return json_response({"id": delivery}, status=202)
        if not receipt.inbox_id and not receipt.duplicate:
            return json_response({"id": delivery, "replies": []})  # what a group says among itself
        return await self._outcome(inlet, delivery, receipt.inbox_id, self._wait)

    async def _replies(self, request: web.Request) -> web.Response:
        inlet, _, _ = await self._open(request)
        delivery = request.match_info["id"]
        try:
            inbox_id = await inlet.find(self.kind, self.name, delivery)
        except StoreError:
            raise Refused(503, "the store does not answer", retry_after=5) from None
        if inbox_id is None:
            raise Refused(404, "no message with this id was received")
        return await self._outcome(inlet, delivery, inbox_id, 0.0)

    async def _open(self, request: web.Request) -> tuple[Inlet, str, bytes]:
        """(core, webhook-id, raw body) of a request that is small enough and rightly signed."""
        body = await read_body(request, self._max_body)
        try:
            delivery = self._signer.verify(request.headers, body)
        except SignatureError as error:
            raise Refused(401, str(error)) from None
        if self._inlet is None:
            raise Refused(503, "the bot is starting or stopping", retry_after=5)
        return self._inlet, delivery, body

    async def _outcome(self, inlet: Inlet, delivery: str, inbox_id: int, wait: float) -> web.Response:
        """200 with the replies once there are any, else 202: the message is accepted either way."""
        try:
            outcome = await inlet.outcome(inbox_id, wait=wait)
        except StoreError:
            return json_response({"id": delivery}, status=202)
        if not outcome.done:
            return json_response({"id": delivery}, status=202)
        replies = [{"text": part.text, "sources": part.sources} for part in outcome.replies]
        return json_response({"id": delivery, "replies": replies})

    def _message(self, delivery: str, fields: Mapping[str, Any]) -> Message:
        if fields.get("type") != "message":
            raise Refused(400, 'type must be "message"', field="type")
        text = fields.get("text")
        if not isinstance(text, str):
            raise Refused(400, "text must be a string", field="text")
        return Message(
            connector=self.kind,
            bot=self.name,
            delivery=delivery,
            chat=Chat(_identity(fields, "chat_id"), group=_flag(fields, "group", default=False)),
            user=User(_identity(fields, "user_id")),
            text=text,
            id=delivery,
            mentioned=_flag(fields, "mentioned", default=True),
        )

    # -- outbound ---------------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """POST one reply. Raises ConnectorError, or Undeliverable for a receiver that is gone (410)."""
        if self._reply_url is None:
            return None
        body = _payload(outgoing)
        headers = self._signer.sign(outgoing.key, body) | {"Content-Type": "application/json"}
        try:
            async with self._connections().post(
                self._reply_url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await _drain(response)
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError, too
            raise self._failed(type(error).__name__) from error
        if 200 <= response.status < 300:
            if self.status.state == "retrying":
                self.status.state, self.status.detail = "ok", ""
            return None
        if response.status == 410:
            raise Undeliverable("the receiver is gone", code=410)
        after = _retry_after(response.headers) if response.status in _SLOW_DOWN else None
        raise self._failed(f"HTTP {response.status}", retry_after=after, code=response.status)

    def _failed(
        self, problem: str, *, retry_after: float | None = None, code: int | None = None
    ) -> ConnectorError:
        if self.status.state == "ok":
            self.status.state = "retrying"
        self.status.detail = f"reply_url: {problem}"
        return ConnectorError(f"reply_url: {problem}", retry_after=retry_after, code=code)

    def _connections(self) -> aiohttp.ClientSession:
        """Opened by the first reply, which may be one that an earlier process left, before `start`."""
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=SEND_WITHIN),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "glmbot"},
            )
        return self._client


def _payload(outgoing: Outgoing) -> bytes:
    target = outgoing.target
    reply = {
        "type": "reply",
        "id": outgoing.key,
        "in_reply_to": target.delivery or None,
        "chat_id": target.chat,
        "user_id": target.user,
        "text": outgoing.text,
        "sources": outgoing.sources,
        "final": outgoing.final,
    }
    return json.dumps(reply, ensure_ascii=False, separators=(",", ":")).encode()


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short answer to its end, so that its connection can be used again; the status has arrived."""
    left = _DRAINED
    try:
        while left > 0 and (chunk := await response.content.read(left)):
            left -= len(chunk)
    except (aiohttp.ClientError, OSError):
        response.close()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (a number or a date), within bounds."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 1.0), LONGEST_RETRY_AFTER)


def _identity(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTITY:
        raise Refused(400, f"{name} must be a string of 1 to {MAX_IDENTITY} characters", field=name)
    if _NO_IDENTITY.search(value):
        raise Refused(400, f"{name} must not have control characters", field=name)
    return value


def _flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false", field=name)
    return value
