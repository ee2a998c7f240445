"""The gate of a WeCom callback: lets in what is signed, decrypts it, and seals what is answered."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from aiohttp import web

from bot.connectors.http import Refused, json_object, read_body
from bot.connectors.wecom import xml
from bot.connectors.wecom.crypto import BadSignature, Crypto, Undecipherable

MAX_BODY = 64 * 1024
"""Callbacks have a few kB; what is larger is not read, as its parsing would delay everybody's messages."""

_SECONDS = re.compile("[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Opened:
    """What a callback carried, and the nonce of its request, which an answer in JSON must repeat."""

    plain: bytes
    nonce: str


class Callback:
    """The gate of one route.

    `allowed`: the networks that requests may come from; all where empty.
    `replay_window`: seconds that a timestamp may be away from now; None takes any.
    """

    def __init__(
        self,
        crypto: Crypto,
        *,
        max_body: int,
        allowed: Sequence[IPv4Network | IPv6Network] = (),
        replay_window: float | None = None,
    ) -> None:
        self._crypto = crypto
        self._max_body = min(max_body, MAX_BODY)
        self._allowed = tuple(allowed)
        self._replay_window = replay_window

    async def verify(self, request: web.Request) -> web.Response:
        """Answer the platform's URL verification (GET): exactly what echostr encrypts.

        Raises Refused: 403 for who may not ask, 400 for what cannot be decrypted and for messages, which
        whoever has seen a POST go by could have decrypted here.
        """
        self._check_address(request)
        echo = _parameter(request, "echostr").replace(" ", "+")  # a raw + reads as a blank
        plain = self._open(request, echo).plain
        if plain.startswith((b"<", b"{")):
            raise Refused(400, "echostr is a message")
        return web.Response(body=plain, content_type="text/plain", charset="utf-8")

    async def open_xml(self, request: web.Request) -> Opened:
        """The message of a POST with an XML body. Raises Refused: 403, 400, 413."""
        body = await self._body(request)
        try:
            encrypted = xml.parse(body).get("Encrypt")
        except xml.BadXml as error:
            raise Refused(400, f"the body is no message: {error.problem}") from None
        return self._open(request, encrypted or "")

    async def open_json(self, request: web.Request) -> Opened:
        """The message of a POST with a JSON body. Raises Refused: 403, 400, 413."""
        encrypted = json_object(await self._body(request)).get("encrypt")
        return self._open(request, encrypted if isinstance(encrypted, str) else "")

    def seal_xml(self, plain: bytes) -> bytes:
        """The body of a passive answer."""
        timestamp, nonce = int(time.time()), secrets.token_hex(8)
        encrypted, signature = self._crypto.seal(plain, str(timestamp), nonce)
        return xml.build(
            {"Encrypt": encrypted, "MsgSignature": signature, "TimeStamp": timestamp, "Nonce": nonce}
        )

    def seal_json(self, plain: bytes, nonce: str) -> bytes:
        """The body of an answer to the request with this nonce."""
        timestamp = int(time.time())
        encrypted, signature = self._crypto.seal(plain, str(timestamp), nonce)
        envelope = {"encrypt": encrypted, "msgsignature": signature, "timestamp": timestamp, "nonce": nonce}
        return json.dumps(envelope).encode()

    async def _body(self, request: web.Request) -> bytes:
        self._check_address(request)
        return await read_body(request, self._max_body)

    def _open(self, request: web.Request, encrypted: str) -> Opened:
        signature = _parameter(request, "msg_signature")
        timestamp = _parameter(request, "timestamp")
        nonce = _parameter(request, "nonce")
        if not encrypted:
            raise Refused(400, "the body holds no encrypted message")
        try:
            plain = self._crypto.open(signature, timestamp, nonce, encrypted)
        except BadSignature as error:
            raise Refused(403, error.problem) from None
        except Undecipherable as error:
            raise Refused(400, error.problem) from None
        if not self._is_fresh(timestamp):
            raise Refused(403, "timestamp is too far from now")
        return Opened(plain, nonce)

    def _check_address(self, request: web.Request) -> None:
        if self._allowed and not self._is_allowed(request.remote):
            raise Refused(403, "this address may not call")

    def _is_allowed(self, remote: str | None) -> bool:
        try:
            address = ipaddress.ip_address(remote or "")
        except ValueError:  # a Unix socket has none
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped  # how a socket for both families shows IPv4
        return any(address in network for network in self._allowed)

    def _is_fresh(self, timestamp: str) -> bool:
        if self._replay_window is None:
            return True
        return (
            _SECONDS.fullmatch(timestamp) is not None
            and abs(time.time() - int(timestamp)) <= self._replay_window
        )


def _parameter(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise Refused(400, f"the parameter {name} is missing")
    return value
