"""The HTTP side of webhook mode: refuse what is not Telegram's, confirm what is committed."""

from __future__ import annotations

import hmac

import structlog
from aiohttp import web

from bot.connectors.base import Inlet
from bot.connectors.fields import integer
from bot.connectors.http import Refused, json_object, read_body
from bot.connectors.telegram.intake import Intake
from bot.errors import Overloaded, StoreError

log = structlog.get_logger(__name__)
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
BUSY_SECONDS = 5.0


class Webhook:
    """Takes the updates that Telegram posts to one bot. Closed while `inlet` is None."""

    def __init__(self, intake: Intake, secret: str, max_body: int) -> None:
        self.inlet: Inlet | None = None
        self._intake = intake
        self._secret = secret.encode()
        self._max_body = max_body

    async def handle(self, request: web.Request) -> web.Response:
        """200 once committed, with an empty body: Telegram would carry out a method found there.

        Raises Refused: 401 before anything is read, 413 or 400 for what is no update, 503 for "again later".
        """
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            raise Refused(401, "wrong secret token")
        update = json_object(await read_body(request, self._max_body))
        if integer(update.get("update_id")) is None:
            raise Refused(400, "not an update", field="update_id")
        if self.inlet is None or self._intake.me is None:
            raise Refused(503, "not ready", retry_after=BUSY_SECONDS)
        try:
            await self._intake.take([update], self.inlet)
        except Overloaded as error:
            raise Refused(503, "busy", retry_after=error.retry_after) from None
        except StoreError as error:
            log.error("an update is not committed, Telegram will send it again", problem=str(error))
            raise Refused(503, "not stored", retry_after=BUSY_SECONDS) from None
        return web.Response()
