"""Signatures and envelopes: known vectors, round trips, and everything that must be refused."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.crypto import BadSignature, Crypto, Undecipherable

FILE = Path(__file__).parents[3] / "data/wecom/wecom_vectors.json"
VECTORS = {vector["id"]: vector for vector in json.loads(FILE.read_text(encoding="utf-8"))["vectors"]}
ACCEPTED = [key for key, vector in VECTORS.items() if vector["expect"]["result"] == "accept"]
TOKEN, KEY, CORP = "tok", "6qkdMrq68nTKduznJYO1A37W2oEgpkMUvkttRToqhUt", "ww1"
CRYPTO = Crypto(TOKEN, KEY, CORP)
MESSAGE = b"r" * 16 + b"\0\0\0\5hello" + CORP.encode()


def crypto_of(vector: dict[str, Any]) -> Crypto:
    return Crypto(vector["token"], vector["encoding_aes_key"], vector["receiveid"])


def open_vector(vector: dict[str, Any]) -> bytes:
    given = [vector[name] for name in ("msg_signature", "timestamp", "nonce", "encrypt")]
    return crypto_of(vector).open(*given)


def encrypt(padded: bytes) -> bytes:
    """AES-256-CBC of whole blocks, without any rule of WeCom's."""
    key = base64.b64decode(KEY + "=")
    encryptor = Cipher(AES256(key), CBC(key[:16])).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def pad(data: bytes) -> bytes:
    missing = 32 - len(data) % 32
    return data + bytes([missing]) * missing


GOOD = base64.b64encode(encrypt(pad(MESSAGE))).decode()


def open_signed(encrypted: str) -> bytes:
    return CRYPTO.open(CRYPTO.sign("1", "n", encrypted), "1", "n", encrypted)


@pytest.mark.parametrize("name", ACCEPTED)
def test_known_messages_are_opened(name: str) -> None:
    assert open_vector(VECTORS[name]).decode() == VECTORS[name]["plaintext"]


@pytest.mark.parametrize("name", [name for name in ACCEPTED if "random16" in VECTORS[name]])
def test_messages_are_sealed_as_others_seal_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = VECTORS[name]
    monkeypatch.setattr(secrets, "token_bytes", lambda count: vector["random16"].encode()[:count])
    sealed = crypto_of(vector).seal(vector["plaintext"].encode(), vector["timestamp"], vector["nonce"])
    assert sealed == (vector["encrypt"], vector["msg_signature"])


def test_known_forgeries_are_refused() -> None:
    with pytest.raises(BadSignature):
        open_vector(VECTORS["S5-tampered-ciphertext"])
    with pytest.raises(Undecipherable, match="receiver"):
        open_vector(VECTORS["S6-wrong-receiveid"])


@given(st.binary(max_size=4096), st.text(st.characters(codec="utf-8"), max_size=70), st.text(), st.text())
def test_what_is_sealed_can_be_opened(plain: bytes, receiver: str, timestamp: str, nonce: str) -> None:
    crypto = Crypto(TOKEN, KEY, receiver)
    encrypted, signature = crypto.seal(plain, timestamp, nonce)
    assert crypto.open(signature, timestamp, nonce, encrypted) == plain
    assert len(base64.b64decode(encrypted)) % 32 == 0


def test_padding_may_be_as_long_as_two_blocks_of_aes() -> None:
    for length in range(32):
        assert open_signed(CRYPTO.seal(b"x" * length, "1", "n")[0]) == b"x" * length


def test_each_envelope_is_another() -> None:
    assert CRYPTO.seal(b"same", "1", "n")[0] != CRYPTO.seal(b"same", "1", "n")[0]


@given(st.data())
def test_no_part_may_be_changed(data: st.DataObject) -> None:
    encrypted, signature = CRYPTO.seal(data.draw(st.binary(max_size=100)), "1700000000", "nonce")
    parts = [signature, "1700000000", "nonce", encrypted]
    which = data.draw(st.integers(0, 3))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    other = data.draw(st.characters().filter(lambda character: character != parts[which][at]))
    parts[which] = parts[which][:at] + other + parts[which][at + 1 :]
    with pytest.raises(BadSignature):
        CRYPTO.open(*parts)


@pytest.mark.parametrize("signature", ["", "0" * 40, "é" * 40, "\ud800", CRYPTO.sign("1", "n", "?").upper()])
def test_the_signature_comes_before_anything_else(signature: str) -> None:
    with pytest.raises(BadSignature):
        CRYPTO.open(signature, "1", "n", "?")


def test_another_token_signs_otherwise() -> None:
    encrypted, signature = Crypto("other", KEY, CORP).seal(b"x", "1", "n")
    with pytest.raises(BadSignature):
        CRYPTO.open(signature, "1", "n", encrypted)


@pytest.mark.parametrize(
    "encrypted",
    ["", "?", "AAAA", "A" * 21, "AA=A" * 16, "\ud800" * 4, "１" * 64]
    + [GOOD[:-1], GOOD + "=", " " + GOOD, GOOD + "\n", "=" + GOOD]
    + [base64.b64encode(bytes(count)).decode() for count in (15, 17, 33)],
)
def test_signed_text_that_is_no_base64_of_blocks_is_refused(encrypted: str) -> None:
    with pytest.raises(Undecipherable):
        open_signed(encrypted)


@pytest.mark.parametrize(
    ("problem", "padded"),
    [
        ("padding", MESSAGE[:-1].ljust(32, b"\0")),
        ("padding", MESSAGE.ljust(64, b"\x21")),
        ("padding", MESSAGE.ljust(32, b"\xff")),
        ("padding", MESSAGE.ljust(31, b"\1") + b"\4"),
        ("padding", b"\x20" * 16),
        ("shorter", pad(b"")),
        ("shorter", pad(b"r" * 17)),
        ("shorter", pad(b"r" * 16 + b"\0\0\0\1")),
        ("shorter", pad(b"r" * 16 + b"\xff\xff\xff\xffhello")),
        ("shorter", pad(b"r" * 16 + b"\0\0\0\x09hello" + CORP.encode())),
        ("receiver", pad(MESSAGE[:-1])),
        ("receiver", pad(MESSAGE + b"2")),
        ("receiver", pad(MESSAGE[: -len(CORP)])),
        ("receiver", pad(MESSAGE[: -len(CORP)] + b"\xff\xff\xff")),
        ("receiver", pad(MESSAGE.replace(b"\5", b"\4"))),
    ],
)
def test_signed_envelopes_against_the_rules_are_refused(problem: str, padded: bytes) -> None:
    with pytest.raises(Undecipherable, match=problem):
        open_signed(base64.b64encode(encrypt(padded)).decode())


@given(st.binary(max_size=200))
def test_arbitrary_blocks_are_opened_or_refused(data: bytes) -> None:
    whole = data[: len(data) // 16 * 16]
    for encrypted in (whole, encrypt(whole)):
        with contextlib.suppress(Undecipherable):
            open_signed(base64.b64encode(encrypted).decode())


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "A", KEY[:-1] + "?", "A" * 22, "密" * 43])
def test_a_key_has_43_characters_of_base64(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - binascii's or our own
        Crypto(TOKEN, key, CORP)


@given(st.binary(max_size=4096))
def test_files_are_decrypted_without_an_envelope(data: bytes) -> None:
    assert CRYPTO.decrypt_media(encrypt(pad(data))) == data


@pytest.mark.parametrize("data", [b"", b"x" * 31, encrypt(bytes(32)), encrypt(b"\x21" * 64)])
def test_files_against_the_rules_are_refused(data: bytes) -> None:
    with pytest.raises(Undecipherable):
        CRYPTO.decrypt_media(data)
