"""What people send to an intelligent robot, fetched from where a message says: public places only."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bot.connectors.base import MediaSource
from bot.connectors.wecom.aibot_media import is_public
from bot.errors import Undeliverable
from bot.message import Segment
from bot.metrics import Metrics
from tests.bot.connectors.wecom.aibot_platform import KEY, PNG, connector_of


def encrypted(data: bytes) -> bytes:
    """A file as WeCom keeps it: AES-256-CBC with the robot's own key, padded to 32."""
    key = base64.b64decode(KEY + "=")
    pad = 32 - len(data) % 32
    encryptor = Cipher(AES256(key), CBC(key[:16])).encryptor()
    return encryptor.update(data + bytes([pad]) * pad) + encryptor.finalize()


@pytest.fixture
async def files() -> AsyncIterator[tuple[MediaSource, str]]:
    """A robot whose api_base has files, and that base."""
    app = web.Application()
    contents = {"picture": encrypted(PNG), "large": encrypted(bytes(1000)), "plain": PNG}

    async def get(request: web.Request) -> web.Response:
        if request.path == "/moved":
            raise web.HTTPFound("/picture")
        data = contents.get(request.path[1:])
        return web.Response(status=404) if data is None else web.Response(body=data)

    app.router.add_get("/{path:.*}", get)
    async with TestServer(app, host="127.0.0.1") as server:
        base = str(server.make_url("")).rstrip("/")
        robot = connector_of(base, Metrics())
        assert isinstance(robot, MediaSource)
        yield robot, base
        await robot.close()


async def test_a_file_is_fetched_and_decrypted(files: tuple[MediaSource, str]) -> None:
    robot, base = files
    assert await robot.fetch(Segment("image", ref=f"{base}/picture"), 100) == PNG


@pytest.mark.parametrize("path", ["large", "plain", "moved", "gone"])
async def test_what_is_no_such_file_is_refused(files: tuple[MediaSource, str], path: str) -> None:
    robot, base = files
    with pytest.raises(Undeliverable):
        await robot.fetch(Segment("image", ref=f"{base}/{path}"), 100)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ftp://example.com/x",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f000001/x",
        "https://localhost/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/x",
        "https://user@example.com/x",
        "https://[/",
        "/x",
        "",
    ],
)
async def test_internal_addresses_and_plain_http_are_not_called(
    files: tuple[MediaSource, str], url: str
) -> None:
    with pytest.raises(Undeliverable):
        await files[0].fetch(Segment("image", ref=url), 100)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("64:ff9b::808:808", True),
        ("fe80::1%eth0", False),
        ("224.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::1", False),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fec0::1", False),
        ("::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_text_is_no_medium(files: tuple[MediaSource, str]) -> None:
    with pytest.raises(Undeliverable):
        await files[0].fetch(Segment("text", "hi"), 100)
