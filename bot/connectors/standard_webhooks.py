"""Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`, in and out."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Mapping, Sequence

from bot.errors import BotError

TOLERANCE = 300
"""Seconds that a timestamp may be away from now, both ways."""

_ID = re.compile(r"[\x21-\x7e]{1,256}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class SignatureError(BotError):
    """A request that does not prove where it comes from."""


class Signer:
    """Signs with the first secret, accepts what any of them signed (so that secrets can be rotated)."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_key(secret) for secret in secrets]

    def sign(self, message_id: str, body: bytes, now: float | None = None) -> dict[str, str]:
        """The three headers of a request with this body."""
        timestamp = str(int(time.time() if now is None else now))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": "v1," + _signature(self._keys[0], message_id, timestamp, body).decode(),
        }

    def verify(self, headers: Mapping[str, str], body: bytes, now: float | None = None) -> str:
        """The webhook-id of a request whose signature is right. Raises SignatureError."""
        message_id = headers.get("webhook-id", "")
        timestamp = headers.get("webhook-timestamp", "")
        entries = headers.get("webhook-signature", "").split(" ")
        if not _ID.fullmatch(message_id):
            raise SignatureError("webhook-id is missing or malformed")
        if not _TIMESTAMP.fullmatch(timestamp):
            raise SignatureError("webhook-timestamp is missing or not a number of seconds")
        if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE:
            raise SignatureError("webhook-timestamp is more than 5 minutes away from now")
        given = [entry[3:].encode("utf-8", "replace") for entry in entries if entry.startswith("v1,")]
        for key in self._keys:
            wanted = _signature(key, message_id, timestamp, body)
            if any(hmac.compare_digest(wanted, signature) for signature in given):
                return message_id
        raise SignatureError("webhook-signature does not match")


def _key(secret: str) -> bytes:
    """The bytes behind `whsec_`; padding may be missing."""
    encoded = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.digest(key, signed, "sha256"))
