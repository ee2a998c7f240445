"""The HTTP client of the Telegram Bot API: one call, one result or one ApiError."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from pydantic import SecretStr

from bot.connectors.http import reason
from bot.errors import MAY_HAVE_ARRIVED, ConnectorError

CONNECT_WITHIN = 10.0
"""Seconds, or half of all that a call has; after that it is certain that nothing was sent."""
_SHOWN_TWICE = frozenset({"sendMessage"})
"""Methods that must not be called twice for nothing."""
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerTimeoutError,  # that of connecting: no other one is set beside the total
    aiohttp.InvalidURL,
)


class ApiError(ConnectorError):
    """The Bot API refused a call or could not be reached.

    `code` is the HTTP status, None when there was no answer at all; `description` is the server's own;
    `migrate_to` is the new id of a group that became a supergroup. The token, which is part of the URL,
    is in none of them.
    """

    def __init__(
        self,
        method: str,
        description: str,
        *,
        code: int | None = None,
        retry_after: float | None = None,
        migrate_to: str | None = None,
        patience: float | None = None,
    ) -> None:
        self.description = description
        self.migrate_to = migrate_to
        super().__init__(
            f"{method}: {description}" if code is None else f"{method}: {code} {description}",
            retry_after=retry_after,
            code=code,
            patience=patience,
        )

    @property
    def not_modified(self) -> bool:
        """Whether an edit would have changed nothing; the Bot API tells it by its text only."""
        return self.code == 400 and "not modified" in self.description.lower()


class BotApi:
    """Calls methods of one bot at `base` (scheme://host[:port][/path], without /bot)."""

    def __init__(self, base: str, token: SecretStr, session: aiohttp.ClientSession | None = None) -> None:
        self._base = base
        self._token = token
        self._session = session
        self._owned = session is None

    def open(self) -> None:
        """Make a session where none was given; needs a running loop."""
        if self._session is None:
            # Plain http is for loopback only, where the environment's proxy has no business.
            self._session = aiohttp.ClientSession(trust_env=self._base.startswith("https"))

    async def close(self) -> None:
        """Give the session back, unless it was given."""
        if self._owned and self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> Any:
        """The `result` of a method; raises ApiError."""
        if self._session is None:
            raise ApiError(method, "the connector is closed")
        url = f"{self._base}/bot{self._token.get_secret_value()}/{method}"
        try:
            async with self._session.post(
                url,
                json=params or {},
                timeout=aiohttp.ClientTimeout(total=timeout, connect=min(CONNECT_WITHIN, timeout / 2)),
                allow_redirects=False,
            ) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Not `from error`: some of aiohttp's errors carry the URL.
            unsure = method in _SHOWN_TWICE and not isinstance(error, _NOT_SENT)
            raise ApiError(method, reason(error), patience=MAY_HAVE_ARRIVED if unsure else None) from None
        return _result(method, status, body)


def _result(method: str, status: int, body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise ApiError(method, "not an answer of the Bot API", code=status)
    if answer["ok"]:
        return answer.get("result")
    parameters = answer.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    retry_after, migrate_to = parameters.get("retry_after"), parameters.get("migrate_to_chat_id")
    code = answer.get("error_code")
    raise ApiError(
        method,
        str(answer.get("description") or "no description"),
        code=code if isinstance(code, int) else status,
        retry_after=float(retry_after) if isinstance(retry_after, int | float) and retry_after > 0 else None,
        migrate_to=str(migrate_to) if isinstance(migrate_to, int) else None,
    )
