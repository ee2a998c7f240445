"""The HTTP side of WeCom's API: one session, answers read within bounds, one kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from bot.connectors.http import reason
from bot.connectors.wecom.errcodes import PERMANENT, Explanation, explain
from bot.errors import ConnectorError

MAX_JSON = 8 << 20
"""Bytes of a JSON answer: the largest is a page of 1,000 customers' messages."""
GETTOKEN = "gettoken"
CONNECT_WITHIN = 10.0
"""Seconds, or half of all that a call has; after that it is certain that nothing was sent."""
REFUSED_PATIENCE = 600.0
"""Seconds for which is tried again what WeCom refused by an errcode that nobody here knows."""
_SECRETS = ("access_token", "corpsecret", "key")
"""Names of query parameters whose values must not be told, not even where an answer repeats them."""
# Not for -1 (busy): a caller's own growing pauses suit an outage better than one that stays short.
_RETRY_AFTER = {45009: 60.0, 45033: 2.0}
_LATER = frozenset({408, 429})
"""HTTP statuses that are no refusal, though they begin with 4."""
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerTimeoutError,  # that of connecting: no other one is set beside the total
    aiohttp.InvalidURL,
)


class ApiError(ConnectorError):
    """WeCom refused a call or could not be reached.

    `method` is the API's path below /cgi-bin/; `code` is the errcode, None when no valid answer came;
    `errmsg` is the platform's own text, for people only. Neither secrets nor tokens are in any of them.
    `status` is the HTTP status of an answer without errcode; `unsure` tells that the call may have been
    made all the same.
    """

    def __init__(
        self,
        method: str,
        errmsg: str,
        *,
        code: int | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        unsure: bool = False,
    ) -> None:
        self.method = method
        self.errmsg = errmsg
        self.status = status
        self.unsure = unsure
        if retry_after is None and code is not None:
            retry_after = _RETRY_AFTER.get(code)
        problem = f"{method}: {errmsg}" if code is None else f"{method}: {code} {errmsg}"
        known = explain(code)
        super().__init__(f"{problem} ({known.en})" if known else problem, retry_after=retry_after, code=code)
        if self.refused and not self.permanent:
            self.patience = REFUSED_PATIENCE

    @property
    def permanent(self) -> bool:
        """Whether the same call will never succeed, whatever the operator mends."""
        return self.code in PERMANENT

    @property
    def refused(self) -> bool:
        """Whether WeCom said no for good: `permanent`, or as far as one can tell of what nobody here knows.

        A secret is never refused like that: there the operator can mend whatever it is.
        """
        if self.method == GETTOKEN:
            return self.permanent
        if self.code is None:
            return self.status is not None and 400 <= self.status < 500 and self.status not in _LATER
        return self.permanent or self.unknown

    @property
    def unknown(self) -> bool:
        """Whether it is a refusal by an errcode that nobody here knows."""
        return self.code is not None and self.explanation is None and self.method != GETTOKEN

    @property
    def summary(self) -> str:
        """The problem in our own words, for all who see the status: an errmsg tells this host's IP."""
        if self.code is None:
            return self.problem
        known = self.explanation
        return f"{self.method}: {self.code}" + (f" ({known.en})" if known else "")

    @property
    def explanation(self) -> Explanation | None:
        """What the errcode means and what to do, in Chinese and English; None for unknown ones."""
        return explain(self.code)

    def again(self) -> ApiError:
        """The same error for one more caller: raised in many tasks, one would gather all their frames."""
        return ApiError(self.method, self.errmsg, code=self.code, retry_after=self.retry_after)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer; `attached` if it came as a file, `hidden` is what must not be told of it."""

    method: str
    status: int
    media_type: str
    attached: bool
    body: bytes
    hidden: tuple[str, ...] = ()

    def result(self) -> dict[str, Any]:
        """The JSON object of a successful call. Raises ApiError; errcodes come with HTTP status 200."""
        fields = self._fields()
        code = fields.get("errcode")
        if not isinstance(code, int) or isinstance(code, bool):
            raise self._odd("not an answer of WeCom's API (HTTP {})")
        if code != 0:
            raise ApiError(self.method, self._told(fields.get("errmsg")), code=code)
        if self.status != 200:
            raise self._odd("HTTP {}")
        return fields

    def content(self) -> bytes:
        """The bytes of a file. Raises ApiError: a refusal comes in its place, as JSON."""
        if not self.attached and self.media_type in ("application/json", "text/plain"):
            if self.status != 200 or self._fields().get("errcode"):
                self.result()
        elif self.status != 200:
            raise self._odd("HTTP {}")
        return self.body

    def _odd(self, errmsg: str) -> ApiError:
        """An answer without errcode; a gateway's may follow upon a call that was made."""
        unsure = self.status == 200 or self.status >= 500
        return ApiError(self.method, errmsg.format(self.status), status=self.status, unsure=unsure)

    def _fields(self) -> dict[str, Any]:
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return fields if isinstance(fields, dict) else {}

    def _told(self, errmsg: object) -> str:
        text = " ".join(str(errmsg or "no message").split())[:300]
        for secret in self.hidden:
            text = text.replace(secret, "***")
        return text


class Http:
    """Sessions of aiohttp, opened when they are first needed and shared by all that are given this object.

    The last of its `users` to close it does so for good.
    """

    def __init__(self, users: int = 1) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._users = users
        self._closed = False

    def join(self) -> Http:
        """The same object, for one more user, who must close it once."""
        self._users += 1
        return self

    def session(self, url: str = "https://") -> aiohttp.ClientSession:
        """The session for such URLs; needs a running loop. Raises ApiError once closed."""
        if self._closed:
            raise ApiError("session", "the connector is closed")
        # Plain http is for loopback only, where the environment's proxy has no business.
        proxies = url.startswith("https:")
        if proxies not in self._sessions:
            self._sessions[proxies] = aiohttp.ClientSession(
                trust_env=proxies, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._sessions[proxies]

    async def close(self) -> None:
        """One user needs it no more."""
        self._users -= 1
        if self._users > 0:
            return
        self._closed = True
        while self._sessions:
            await self._sessions.popitem()[1].close()

    async def fetch(
        self,
        method: str,
        verb: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_JSON,
        timeout: float = 10.0,
    ) -> Answer:
        """One request without redirects, whatever its status. Raises ApiError; `method` names the call."""
        try:
            async with self.session(url).request(
                verb,
                url,
                params=params,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout, connect=min(CONNECT_WITHIN, timeout / 2)),
                allow_redirects=False,
            ) as response:
                return Answer(
                    method,
                    response.status,
                    response.content_type,
                    "Content-Disposition" in response.headers,
                    await _read(method, response, limit),
                    tuple(value for name, value in (params or {}).items() if name in _SECRETS and value),
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            problem, unsure = reason(error), not isinstance(error, _NOT_SENT)
        # Raised out here, for many of aiohttp's errors carry the URL and with it the token: not even
        # the new error's context may hold one.
        raise ApiError(method, problem, unsure=unsure)

    async def post(
        self,
        method: str,
        url: str,
        payload: Mapping[str, Any],
        *,
        params: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> dict[str, Any]:
        """Post JSON and return the JSON object that answers it. Raises ApiError."""
        # As UTF-8, not \uXXXX: some fields refuse those (errcode 40033).
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = await self.fetch(
            method, "POST", url, params=params, data=body, headers=headers, timeout=timeout
        )
        return answer.result()


async def _read(method: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    if (response.content_length or 0) <= limit:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise ApiError(method, f"the answer has more than {limit} bytes", unsure=True)
