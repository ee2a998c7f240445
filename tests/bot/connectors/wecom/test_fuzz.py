"""Broken and hostile input for all that reads what WeCom, or who pretends to be it, sends: nothing breaks.

A new decoder becomes a target by an entry in TARGETS: real inputs, how they are written, and a function
that may raise nothing but assertions, whatever bytes it is given.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.connectors.http import Refused, json_object
from bot.connectors.wecom import aibot_messages, app_messages, kf_messages, xml
from bot.connectors.wecom.callback import MAX_BODY, Callback
from bot.connectors.wecom.crypto import Crypto
from bot.message import Message, clean_text

SECONDS = [0.0, pytest.param(300.0, marks=pytest.mark.long)]
SHORT = 500
"""Inputs that are tried at least, however slow the machine is."""
SEALABLE = MAX_BODY // 2
"""Bytes of a message that fit into a callback, in base64 with their envelope."""
CRYPTO = Crypto("tok", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C", "ww1")
GATE: Any = Callback(CRYPTO, max_body=1 << 20)
FILE = Path(__file__).parents[3] / "data/wecom/messages.json"
SEEDS: dict[str, list[Any]] = json.loads(FILE.read_text(encoding="utf-8"))
TEXTS = ["", " ", "\0", "\ud800", "\ufeff", "@", "@a ", "-1", "９", "9" * 5000, "问" * 3000, "1e400"]
TEXTS += ["]]>", "<!DOCTYPE xml [<!ENTITY a 'b'>]>", "&a;", "&#x110000;", "http://[", "https://a:99999/"]
OTHERS = [None, True, 0, -1, 10**400, 1e308, math.nan, math.inf, [], {}, [[]], {"": {}}, [None] * 50]
PIECES = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
PIECES += [b"\xff", b"<xml>", b"</xml>", b"<![CDATA[", b"<a>" * 99, b'"', b"\\", b"[" * 2000, b'{"a":' * 2000]


# -- what is decoded ------------------------------------------------------------------------


class Post:
    """What the gate looks at of a request, signed for the encrypted text; aiohttp's own mock takes 4 ms."""

    remote = "127.0.0.1"

    def __init__(self, body: bytes, encrypted: str) -> None:
        signature = CRYPTO.sign("1700000000", "n", encrypted)
        self.query = {"msg_signature": signature, "timestamp": "1700000000", "nonce": "n"}
        self.content_length = len(body)
        self._body = body

    async def read(self) -> bytes:
        return self._body


async def outer_xml(body: bytes) -> None:
    encrypted = ""
    with contextlib.suppress(xml.BadXml):
        encrypted = xml.parse(body).get("Encrypt", "")
    with contextlib.suppress(Refused):
        await GATE.open_xml(Post(body, encrypted))


async def outer_json(body: bytes) -> None:
    encrypted = None
    with contextlib.suppress(Refused):
        encrypted = json_object(body).get("encrypt")
    with contextlib.suppress(Refused):
        await GATE.open_json(Post(body, encrypted if isinstance(encrypted, str) else ""))


async def app_message(plain: bytes) -> None:
    if len(plain) <= SEALABLE:
        encrypted, _ = CRYPTO.seal(plain, "1700000000", "n")
        opened = await GATE.open_xml(Post(xml.build({"Encrypt": encrypted}), encrypted))
        assert opened.plain == plain
    with contextlib.suppress(xml.BadXml):
        expect_storable(app_messages.read(xml.parse(plain), "desk", 1000002))


async def aibot_message(plain: bytes) -> None:
    if len(plain) <= SEALABLE:
        encrypted, _ = CRYPTO.seal(plain, "1700000000", "n")
        opened = await GATE.open_json(Post(json.dumps({"encrypt": encrypted}).encode(), encrypted))
        assert opened.plain == plain
    for robot_name in (None, "RobotA"):
        reader = aibot_messages.Reader("robot", robot_name, "https://qyapi.weixin.qq.com")
        with capture_logs():  # a warning for every foreign response_url
            expect_storable(reader.read(plain))


async def kf_item(plain: bytes) -> None:
    with contextlib.suppress(Refused):
        for item in json_object(b'{"msg_list":[' + plain + b"]}")["msg_list"]:
            expect_storable(kf_messages.read(item, "care", "wk1"))


def expect_storable(item: object) -> None:
    """A message must say where it is from, and survive the way through the inbox."""
    if isinstance(item, Message):
        message = item.cleaned()
        assert message.delivery and message.chat.id and message.user.id  # noqa: PT018
        assert math.isfinite(message.time)
        row = message.to_json().encode()
        assert Message.from_json(row.decode()).delivery == message.delivery


# -- how inputs are made --------------------------------------------------------------------


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def xml_bytes(value: Any) -> bytes:
    """Flat fields as XML, whatever else a change has made of them as text."""
    fields = value if isinstance(value, dict) else {"Content": value}
    return xml.build({clean_text(name): str(item) for name, item in fields.items()})


@dataclass(frozen=True)
class Target:
    """A decoder, real inputs to begin with, and how such an input is written."""

    decode: Callable[[bytes], Awaitable[None]]
    write: Callable[[Any], bytes]
    seeds: Sequence[Any]

    def input(self, source: random.Random) -> bytes:
        """A real input with changed values, changed bytes or both."""
        value = copy.deepcopy(source.choice(self.seeds))
        how = source.random()
        for _ in range(source.randrange(1, 4) if how < 0.8 else 0):
            value = change_value(source, value)
        data = self.write(value)
        for _ in range(source.randrange(1, 4) if how > 0.7 else 0):
            data = change_bytes(source, data)
        return data


def change_value(source: random.Random, value: Any) -> Any:
    """The same with one part replaced, left out, or moved elsewhere."""
    if isinstance(value, dict | list) and value and source.random() < 0.95:
        key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        match source.randrange(8):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value[source.choice(list(value))] = value[key]
            case 2 if isinstance(value, dict):
                value[source.choice(TEXTS)] = value.pop(key)
            case _:
                value[key] = change_value(source, value[key])
        return value
    if isinstance(value, str) and source.random() < 0.3:
        at = source.randint(0, len(value))
        return value[:at] + source.choice(TEXTS) + value[at:]
    return copy.deepcopy(source.choice(TEXTS if source.random() < 0.5 else OTHERS))


def change_bytes(source: random.Random, data: bytes) -> bytes:
    """The same with some bytes replaced, left out, repeated, or put in."""
    start = source.randint(0, len(data))
    end = min(len(data), start + source.choice((1, 1, 4, 64)))
    match source.randrange(5):
        case 0:
            return data[:start] + source.randbytes(end - start) + data[end:]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:]
        case 3:
            return data[:start]
        case _:
            return data[:start] + source.choice(PIECES) + data[start:]


TARGETS = {
    "outer-xml": Target(outer_xml, xml_bytes, SEEDS["outer-xml"]),
    "outer-json": Target(outer_json, json_bytes, SEEDS["outer-json"]),
    "app-message": Target(app_message, xml_bytes, SEEDS["app"]),
    "aibot-message": Target(aibot_message, json_bytes, SEEDS["aibot"]),
    "kf-item": Target(kf_item, json_bytes, SEEDS["kf"]),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seconds", SECONDS)
async def test_nothing_breaks(name: str, seconds: float) -> None:
    """The short run tries the same inputs each time; a long one prints the seed it began with."""
    target = TARGETS[name]
    seed = 0 if seconds < 60 else time.time_ns()
    source, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while count < SHORT or time.monotonic() < end:
        count += 1
        data = target.input(source)
        try:
            await target.decode(data)
        except Exception as error:
            error.add_note(f"seed {seed}, input {count}: {data!r}")
            raise
    print(f"{name}: {count} inputs from seed {seed}")  # noqa: T201 - what a long run is repeated with
