"""The HTTP side of webhook mode: refuse what is not Telegram's, confirm what is committed."""

from __future__ import annotations

import hmac
import json
import math
from typing import Any

import structlog
from aiohttp import web

from bot.connectors.base import Inlet
from bot.connectors.telegram.fields import integer
from bot.connectors.telegram.intake import Intake
from bot.errors import Overloaded, StoreError

log = structlog.get_logger(__name__)
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
BUSY_SECONDS = 5


class Webhook:
    """Takes the updates that Telegram posts to one bot. Closed while `inlet` is None."""

    def __init__(self, intake: Intake, secret: str, max_body: int) -> None:
        self.inlet: Inlet | None = None
        self._intake = intake
        self._secret = secret.encode()
        self._max_body = max_body

    async def handle(self, request: web.Request) -> web.Response:
        """200 once committed; 401, 413 or 400 for what is refused; 503 for "again later".

        The body of the answer is empty: Telegram would carry out a method found there.
        """
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            return web.Response(status=401)
        body = await self._body(request)
        if body is None:
            return web.Response(status=413)
        update = _update(body)
        if update is None:
            return web.Response(status=400)
        if self.inlet is None or self._intake.me is None:
            return _later(BUSY_SECONDS)
        try:
            await self._intake.take([update], self.inlet)
        except Overloaded as error:
            return _later(error.retry_after)
        except StoreError as error:
            log.error("an update is not committed, Telegram will send it again", problem=str(error))
            return _later(BUSY_SECONDS)
        return web.Response()

    async def _body(self, request: web.Request) -> bytes | None:
        """The body, None as soon as it is known to be too large."""
        if (request.content_length or 0) > self._max_body:
            return None
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._max_body:
                return None
        return bytes(body)


def _update(body: bytes) -> dict[str, Any] | None:
    try:
        update = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_update = isinstance(update, dict) and integer(update.get("update_id")) is not None
    return update if is_update else None


def _later(seconds: float) -> web.Response:
    return web.Response(status=503, headers={"Retry-After": str(math.ceil(seconds))})
