"""WeCom's server API: calls with a token that is renewed when it must be, media up and down."""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp
import structlog

from bot.connectors.wecom.client import ApiError as ApiError
from bot.connectors.wecom.client import Http as Http
from bot.connectors.wecom.held import HeldSends
from bot.connectors.wecom.pace import Limit, Pace
from bot.connectors.wecom.token import AccessToken
from bot.errors import MAY_HAVE_ARRIVED
from bot.metrics import Metrics

log = structlog.get_logger(__name__)
T = TypeVar("T")
BASE_LIMITS = (Limit(10_000, 60), Limit(150_000, 3600))
"""Calls of one API by one corp, whatever their secrets. Source: path/90312."""
SEND_TIMEOUT = 30.0
"""Seconds that WeCom has to take a message: what it took and did not tell would be sent once more."""
_REFUSED_TOKEN = frozenset({40014, 41001, 42001})
_LIMITED = frozenset({45009, 45033})
_MEDIA_TIMEOUT = 60.0
_MAX_NAME = 80
_SMALL = 64 << 10
"""Bytes that are read of any download: a refusal in a file's place must be understood."""


class QyApi:
    """Calls `base`/cgi-bin/METHOD, with `token` where one is given (group robots have a key instead).

    `pace` counts calls per API, for all who are given it; `connector` is the name under which `metrics`
    counts the sends that a limit made wait, each `part` of an answer once.
    """

    def __init__(
        self,
        http: Http,
        base: str,
        token: AccessToken | None = None,
        *,
        pace: Pace | None = None,
        metrics: Metrics | None = None,
        connector: str = "",
    ) -> None:
        self._http = http
        self._base = base
        self._token = token
        self._pace = pace
        self._held = HeldSends(metrics, connector)
        self._connector = connector
        self._closed = False

    async def close(self) -> None:
        """Have done with the HTTP sessions; may be called again."""
        if not self._closed:
            self._closed = True
            await self._http.close()

    async def check(self) -> None:
        """Get a token, to learn whether corp and secret are right. Raises ApiError."""
        if self._token is not None:
            await self._token.get()

    async def post(
        self,
        method: str,
        payload: Mapping[str, Any],
        *,
        params: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        part: str = "",
    ) -> dict[str, Any]:
        """The answer's fields. Raises ApiError."""

        async def once(query: Mapping[str, str]) -> dict[str, Any]:
            return await self._http.post(
                method, self._url(method), payload, params={**(params or {}), **query}, timeout=timeout
            )

        return await self._call(method, once, part)

    async def send(
        self,
        method: str,
        payload: Mapping[str, Any],
        *,
        params: Mapping[str, str] | None = None,
        part: str = "",
    ) -> dict[str, Any]:
        """Post a message that WeCom would show twice if it were sent twice. Raises ApiError.

        Where it may have arrived all the same, the error's patience is short.
        """
        try:
            return await self.post(method, payload, params=params, timeout=SEND_TIMEOUT, part=part)
        except ApiError as error:
            if error.unsure and error.method == method:
                error.patience = MAY_HAVE_ARRIVED
            raise

    async def get(
        self, method: str, params: Mapping[str, str] | None = None, *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """The answer's fields. Raises ApiError."""

        async def once(query: Mapping[str, str]) -> dict[str, Any]:
            answer = await self._http.fetch(
                method, "GET", self._url(method), params={**(params or {}), **query}, timeout=timeout
            )
            return answer.result()

        return await self._call(method, once, "")

    async def upload(
        self,
        kind: str,
        name: str,
        data: bytes,
        *,
        params: Mapping[str, str] | None = None,
        method: str = "media/upload",
        part: str = "",
    ) -> str:
        """The media_id of an uploaded image, voice, video or file, valid for 3 days. Raises ApiError."""

        async def once(query: Mapping[str, str]) -> dict[str, Any]:
            # Names go out as UTF-8, not percent-encoded: members see them.
            form = aiohttp.FormData(quote_fields=False)
            form.add_field(
                "media", io.BytesIO(data), filename=file_name(name), content_type="application/octet-stream"
            )
            answer = await self._http.fetch(
                method,
                "POST",
                self._url(method),
                params={**(params or {}), **query, "type": kind},
                data=form,
                timeout=_MEDIA_TIMEOUT,
            )
            return answer.result()

        media_id = (await self._call(method, once, part)).get("media_id")
        if not isinstance(media_id, str) or not media_id:
            raise ApiError(method, "an answer without media_id")
        return media_id

    async def download(self, media_id: str, limit: int) -> bytes:
        """The bytes of a temporary media file, `limit` at most. Raises ApiError."""
        method = "media/get"

        async def once(query: Mapping[str, str]) -> bytes:
            answer = await self._http.fetch(
                method,
                "GET",
                self._url(method),
                params={**query, "media_id": media_id},
                limit=max(limit, _SMALL),
                timeout=_MEDIA_TIMEOUT,
            )
            return answer.content()

        content = await self._call(method, once, "")
        if len(content) > limit:
            raise ApiError(method, f"the file has more than {limit} bytes")
        return content

    def _url(self, method: str) -> str:
        return f"{self._base}/cgi-bin/{method}"

    async def _call(self, method: str, once: Callable[[Mapping[str, str]], Awaitable[T]], part: str) -> T:
        """Make a call within the limits; once more with a new token if the platform refuses this one."""
        wait = self._pace.take(method) if self._pace else 0.0
        if wait:
            self._held.note("api_pace", part)
            raise ApiError(method, "as many calls as WeCom takes are made already", retry_after=wait)
        try:
            if self._token is None:
                return await once({})
            token = await self._token.get()
            try:
                return await once({"access_token": token})
            except ApiError as error:
                if error.code not in _REFUSED_TOKEN:
                    raise
            return await once({"access_token": await self._token.renew(token)})
        except ApiError as error:
            if error.code in _LIMITED:
                self._held.note("api_frequency", part)
                log.warning("WeCom limits calls", connector=self._connector, problem=error.problem)
            raise


def file_name(name: str) -> str:
    """A name that harms neither a header nor a folder, its extension kept; never empty."""
    clean = re.sub(r'[\x00-\x1f\x7f-\x9f\u2028\u2029"\\/:*?<>|\ud800-\udfff]', "_", name).strip(" .")
    stem, dot, extension = clean.rpartition(".")
    if not dot or len(extension) > 10:
        return clean[:_MAX_NAME] or "file"
    return f"{stem[: _MAX_NAME - len(extension) - 1]}.{extension}"
