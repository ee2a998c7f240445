"""The access token of one secret: fetched once for all who need it, early, and again when it was revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pydantic import SecretStr

from bot.connectors.wecom.client import GETTOKEN, ApiError, Http
from bot.connectors.wecom.pace import Limit, Pace

log = structlog.get_logger(__name__)
LIFETIME = 7200
EARLY = 300
"""Seconds before its end at which a token is replaced; a tenth of the lifetime where that is less."""
AFTER_REFUSAL = 5.0
AFTER_SILENCE = 1.0
"""Seconds without a new try after a refusal, and after no answer: frequent calls get blocked."""
RENEWALS = Limit(10, 60)
"""How often fresh tokens may be thrown away because calls with them were refused."""


class AccessToken:
    """The token of one corp and secret, to be shared by everything that calls with them.

    Source: path/91039.
    """

    def __init__(
        self,
        http: Http,
        base: str,
        corp_id: str,
        secret: SecretStr,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = f"{base}/cgi-bin/{GETTOKEN}"
        self._corp_id = corp_id
        self._secret = secret
        self._clock = clock
        self._value = ""
        self._fresh_until = 0.0
        self._expires_at = 0.0
        self._held_until = 0.0
        self._failure: ApiError | None = None
        self._flight: asyncio.Task[str | ApiError] | None = None
        self._renewals = Pace(RENEWALS, clock=clock)

    async def get(self) -> str:
        """The token. Raises ApiError; while it is only getting old, nobody waits for the next one."""
        now = self._clock()
        if self._value and now < self._fresh_until:
            return self._value
        if self._flight is None and now >= self._held_until:
            self._flight = asyncio.create_task(self._fetch(), name="wecom gettoken")
        if self._value and now < self._expires_at:
            return self._value
        # Shielded: one caller that is cancelled must not take the token from all the others.
        outcome = self._failure if self._flight is None else await asyncio.shield(self._flight)
        if isinstance(outcome, str):
            return outcome
        assert outcome is not None  # there is a failure wherever fetching is held back
        raise outcome.again()

    async def renew(self, stale: str) -> str:
        """The token after one was refused; fetched only if `stale` is still the current one.

        Raises ApiError.
        """
        if stale == self._value:
            wait = self._renewals.take(GETTOKEN)
            if wait:
                raise ApiError(GETTOKEN, "tokens are refused again and again", retry_after=wait)
            self._value = ""
        return await self.get()

    async def _fetch(self) -> str | ApiError:
        """Ask for a token; a failure is returned, to be raised afresh for each who waits."""
        query = {"corpid": self._corp_id, "corpsecret": self._secret.get_secret_value()}
        try:
            answer = await self._http.fetch(GETTOKEN, "GET", self._url, params=query)
            self._take(answer.result())
        except ApiError as error:
            pause = AFTER_SILENCE if error.code is None else AFTER_REFUSAL
            self._held_until = self._clock() + max(pause, error.retry_after or 0.0)
            self._failure = error
            log.warning("no access token", corp=self._corp_id, problem=error.problem)
            return error
        finally:
            self._flight = None
        return self._value

    def _take(self, fields: Mapping[str, Any]) -> None:
        value, seconds = fields.get("access_token"), fields.get("expires_in")
        if not isinstance(value, str) or not value:
            raise ApiError(GETTOKEN, "an answer without a token")
        # A lifetime that makes no sense: the platform will say itself when it has expired.
        lifetime = seconds if isinstance(seconds, int) and seconds >= 60 else LIFETIME
        now = self._clock()
        self._value = value
        self._expires_at = now + lifetime
        self._fresh_until = self._expires_at - min(EARLY, lifetime / 10)
