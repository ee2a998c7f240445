"""Anonymous visitors: a random id in a cookie that only this bot can have signed."""

from __future__ import annotations

import base64
import hmac
import secrets

from aiohttp import web

COOKIE = "glmbot_visitor"
KEPT_FOR = 365 * 24 * 3600
ID_BYTES = 16


class Visitors:
    """Gives out visitor ids and recognises them; a forged or foreign cookie is no visitor."""

    def __init__(self, secret: bytes, name: str) -> None:
        self._key = hmac.digest(secret, f"visitors of {name}".encode(), "sha256")

    def known(self, request: web.Request) -> str | None:
        """The id in the request's cookie, if this bot signed it."""
        visitor, _, signature = request.cookies.get(COOKIE, "").partition(".")
        right = hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(visitor))
        return visitor if right else None

    def welcome(self, request: web.Request, response: web.StreamResponse) -> str:
        """The id of the visitor, a new one if need be; the response (re)news the cookie."""
        visitor = self.known(request) or secrets.token_urlsafe(ID_BYTES)
        response.set_cookie(
            COOKIE,
            f"{visitor}.{self._sign(visitor).decode()}",
            max_age=KEPT_FOR,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )
        return visitor

    def _sign(self, visitor: str) -> bytes:
        digest = hmac.digest(self._key, visitor.encode("utf-8", "replace"), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=")
