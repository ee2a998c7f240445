"""WeCom's callback crypto: SHA-1 signatures over AES-256-CBC envelopes (documents 91144 and 101033)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bot.errors import BotError

_AES_BLOCK = 16
_PAD = 32  # the envelope is padded to twice the block of AES, so that unpadders of libraries refuse it
_RANDOM = 16
_HEAD = _RANDOM + 4


class BadSignature(BotError):
    """A request that nobody who knows the token signed."""

    def __init__(self) -> None:
        self.problem = "msg_signature does not match"
        super().__init__(self.problem)


class Undecipherable(BotError):
    """Signed, but not encrypted by the rules, with this key or for this receiver."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class Crypto:
    """What one callback of one receiver is signed and encrypted with.

    `aes_key` is the EncodingAESKey: 43 base64 characters, whose last two bits need not be zero (ValueError
    for anything else). `receive_id` is the corp id for an application, "" for an intelligent robot.
    """

    def __init__(self, token: str, aes_key: str, receive_id: str) -> None:
        key = base64.b64decode(aes_key + "=", validate=True)
        if len(key) != 32:
            raise ValueError("an EncodingAESKey has 43 characters")
        self._token = _bytes(token)
        self._receive_id = _bytes(receive_id)
        self._cipher = Cipher(AES256(key), CBC(key[:16]))

    def sign(self, timestamp: str, nonce: str, encrypted: str) -> str:
        """The msg_signature: hexadecimal SHA-1 of the four parts in the order of their bytes."""
        parts = sorted((self._token, _bytes(timestamp), _bytes(nonce), _bytes(encrypted)))
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def open(self, signature: str, timestamp: str, nonce: str, encrypted: str) -> bytes:
        """The message inside. Raises BadSignature (nothing was decrypted then) or Undecipherable."""
        wanted = self.sign(timestamp, nonce, encrypted)
        if not hmac.compare_digest(wanted.encode(), _bytes(signature)):
            raise BadSignature
        try:
            data = base64.b64decode(encrypted, validate=True)
        except ValueError:
            raise Undecipherable("the encrypted text is not base64") from None
        envelope = self._decrypt(data)
        end = _HEAD + int.from_bytes(envelope[_RANDOM:_HEAD], "big")
        if len(envelope) < end:
            raise Undecipherable("the message is shorter than it says")
        if not hmac.compare_digest(envelope[end:], self._receive_id):
            raise Undecipherable("the message is for another receiver")
        return envelope[_HEAD:end]

    def seal(self, plain: bytes, timestamp: str, nonce: str) -> tuple[str, str]:
        """(encrypted text, its signature) of a message."""
        head = secrets.token_bytes(_RANDOM) + len(plain).to_bytes(4, "big")
        envelope = head + plain + self._receive_id
        pad = _PAD - len(envelope) % _PAD
        encryptor = self._cipher.encryptor()
        data = encryptor.update(envelope + bytes([pad]) * pad) + encryptor.finalize()
        encrypted = base64.b64encode(data).decode()
        return encrypted, self.sign(timestamp, nonce, encrypted)

    def decrypt_media(self, data: bytes) -> bytes:
        """The bytes of a file that an intelligent robot was sent: same key and padding, no envelope.

        Raises Undecipherable.
        """
        return self._decrypt(data)

    def _decrypt(self, data: bytes) -> bytes:
        if not data or len(data) % _AES_BLOCK:
            raise Undecipherable("the encrypted data is no whole number of blocks")
        decryptor = self._cipher.decryptor()
        padded = decryptor.update(data) + decryptor.finalize()
        pad = padded[-1]
        if not 1 <= pad <= _PAD or not padded.endswith(bytes([pad]) * pad):
            raise Undecipherable("the padding is wrong")
        return padded[:-pad]


def _bytes(text: str) -> bytes:
    """UTF-8; lone surrogates, which a query string can smuggle in, pass."""
    return text.encode("utf-8", "surrogatepass")
