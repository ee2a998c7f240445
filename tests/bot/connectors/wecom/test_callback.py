"""The gate, over HTTP: what it lets in, what it answers, and every way to be refused."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from yarl import URL

from bot.connectors.http import Refused
from bot.connectors.wecom import xml
from bot.connectors.wecom.callback import MAX_BODY, Callback
from bot.connectors.wecom.crypto import Crypto

FILE = Path(__file__).parents[3] / "data/wecom/wecom_vectors.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
TOKEN, KEY = "tok", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
CRYPTO = Crypto(TOKEN, KEY, "ww1")
MESSAGE = "<xml><Content>问</Content></xml>".encode()
LOCAL = [ip_network("127.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("fd00::/8")]

Serve = Callable[[Callback], Awaitable[TestClient[web.Request, web.Application]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers whose routes answer the gate's message and nonce as they are."""
    clients = []

    async def start(callback: Callback) -> TestClient[web.Request, web.Application]:
        async def post_xml(request: web.Request) -> web.Response:
            opened = await callback.open_xml(request)
            return web.Response(body=opened.plain, headers={"Nonce": opened.nonce})

        async def post_json(request: web.Request) -> web.Response:
            opened = await callback.open_json(request)
            return web.Response(body=opened.plain, headers={"Nonce": opened.nonce})

        app = web.Application()
        app.router.add_get("/app", callback.verify)
        app.router.add_post("/app", post_xml)
        app.router.add_post("/robot", post_json)
        client = TestClient(TestServer(app, host="127.0.0.1"))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def client(serve: Serve) -> TestClient[web.Request, web.Application]:
    return await serve(Callback(CRYPTO, max_body=4096))


def sealed(
    plain: bytes, timestamp: str = "1700000000", crypto: Crypto = CRYPTO
) -> tuple[dict[str, str], str]:
    """(query, encrypted text) of a signed request."""
    encrypted, signature = crypto.seal(plain, timestamp, "n-1")
    return {"msg_signature": signature, "timestamp": timestamp, "nonce": "n-1"}, encrypted


def outer(path: str, encrypted: str) -> bytes:
    if path == "/robot":
        return json.dumps({"encrypt": encrypted}).encode()
    return xml.build({"ToUserName": "ww1", "AgentID": "1000002", "Encrypt": encrypted})


async def post(client: Any, path: str, query: dict[str, str], body: Any) -> int:
    async with client.post(path, params=query, data=body) as response:
        await response.read()
        return int(response.status)


async def verify(client: Any, query: dict[str, str]) -> int:
    async with client.get("/app", params=query) as response:
        await response.read()
        return int(response.status)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
async def test_known_requests(serve: Serve, vector: dict[str, Any]) -> None:
    crypto = Crypto(vector["token"], vector["encoding_aes_key"], vector["receiveid"])
    client = await serve(Callback(crypto, max_body=4096))
    query = {name: vector[name] for name in ("msg_signature", "timestamp", "nonce")}
    if vector["kind"] == "verify_get":
        response = await client.get("/app", params=query | {"echostr": vector["echostr"]})
    else:
        path = "/robot" if vector["kind"] == "aibot_json_post" else "/app"
        response = await client.post(path, params=query, data=vector["body"].encode())
    assert response.status in vector["expect"]["http"]
    if vector["expect"]["result"] == "accept":
        assert await response.text() == vector["plaintext"]


@pytest.mark.parametrize("echo", ["1616140317555161061", "中文 echo +/=&%\r\n", "\ufeff", ""])
async def test_verification_answers_the_plain_text_exactly(client: Any, echo: str) -> None:
    query, encrypted = sealed(echo.encode())
    async with client.get("/app", params=query | {"echostr": encrypted}) as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        assert await response.read() == echo.encode()


async def test_a_raw_plus_in_echostr_is_repaired(client: Any) -> None:
    query, encrypted = sealed(b"7")
    while "+" not in encrypted:
        query, encrypted = sealed(b"7")
    raw = "&".join(f"{name}={value}" for name, value in {**query, "echostr": encrypted}.items())
    async with client.get(URL(f"/app?{raw}", encoded=True)) as response:
        assert await response.read() == b"7"


async def test_verification_refuses_what_is_not_signed_or_not_for_us(client: Any) -> None:
    query, encrypted = sealed(b"7")
    assert await verify(client, query | {"echostr": encrypted, "msg_signature": "f" * 40}) == 403
    assert await verify(client, query | {"echostr": "AAAA"}) == 403
    query, encrypted = sealed(b"7", crypto=Crypto(TOKEN, KEY, "ww2"))
    assert await verify(client, query | {"echostr": encrypted}) == 400


@pytest.mark.parametrize("plain", [MESSAGE, b'{"msgtype":"text"}'])
async def test_verification_decrypts_no_message(client: Any, plain: bytes) -> None:
    """Whoever has a log of requests has what was posted, signed and all."""
    query, encrypted = sealed(plain)
    async with client.get("/app", params=query | {"echostr": encrypted}) as response:
        assert response.status == 400
        assert plain.decode() not in await response.text()


@pytest.mark.parametrize("missing", ["msg_signature", "timestamp", "nonce", "echostr"])
@pytest.mark.parametrize("empty", [True, False])
async def test_every_parameter_is_needed(client: Any, missing: str, empty: bool) -> None:
    query, encrypted = sealed(b"7")
    whole = query | {"echostr": encrypted}
    without = {name: "" if name == missing else value for name, value in whole.items()}
    if not empty:
        del without[missing]
    assert await verify(client, whole) == 200
    assert await verify(client, without) == 400
    if missing != "echostr":
        for path in ("/app", "/robot"):
            assert await post(client, path, without, outer(path, encrypted)) == 400


@pytest.mark.parametrize("path", ["/app", "/robot"])
async def test_a_signed_message_is_let_in_with_its_nonce(client: Any, path: str) -> None:
    query, encrypted = sealed(MESSAGE)
    async with client.post(path, params=query, data=outer(path, encrypted)) as response:
        assert (response.status, response.headers["Nonce"]) == (200, "n-1")
        assert await response.read() == MESSAGE


@pytest.mark.parametrize("path", ["/app", "/robot"])
@pytest.mark.parametrize("part", ["msg_signature", "timestamp", "nonce"])
async def test_a_bad_signature_is_forbidden(client: Any, path: str, part: str) -> None:
    query, encrypted = sealed(MESSAGE)
    assert await post(client, path, query | {part: query[part][:-1] + "x"}, outer(path, encrypted)) == 403
    assert await post(client, path, query | {part: "é\x00"}, outer(path, encrypted)) == 403
    assert await post(client, path, query, outer(path, encrypted.swapcase())) == 403


@pytest.mark.parametrize("value", ["%ff%fe", "%ed%a0%80", "%00", "%", "%zz", "%25", "a&nonce=b", "&;=&"])
async def test_a_query_with_broken_escapes_is_refused(client: Any, value: str) -> None:
    raw = "&".join(f"{name}={value}" for name in ("msg_signature", "timestamp", "nonce", "echostr"))
    async with client.get(URL(f"/app?{raw}", encoded=True)) as response:
        assert response.status in (400, 403)
    body = outer("/app", sealed(MESSAGE)[1])
    async with client.post(URL(f"/app?{raw}", encoded=True), data=body) as response:
        assert response.status in (400, 403)


@pytest.mark.parametrize("path", ["/app", "/robot"])
async def test_what_is_signed_but_undecipherable_is_a_bad_request(client: Any, path: str) -> None:
    for encrypted in ("!!not base64!!", "AAAA"):
        query = {"timestamp": "1", "nonce": "n", "msg_signature": CRYPTO.sign("1", "n", encrypted)}
        assert await post(client, path, query, outer(path, encrypted)) == 400
    query, encrypted = sealed(MESSAGE, crypto=Crypto(TOKEN, KEY, ""))
    assert await post(client, path, query, outer(path, encrypted)) == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[
            ("/app", body)
            for body in (b"<a/>", b"<xml/>", b"<xml><Encrypt/></xml>", b"<xml>" + b"<a>" * 1000)
        ],
        ("/app", b'<!DOCTYPE xml [<!ENTITY a "x">]><xml><Encrypt>&a;</Encrypt></xml>'),
        *[("/robot", body) for body in (b"[]", b"{}", b'{"encrypt":1}', b'{"encrypt":""}', b"[" * 4000)],
        *[(path, body) for path in ("/app", "/robot") for body in (b"", b"\x00\xff\xfenot", b"null")],
        *[(path, outer(path, sealed(MESSAGE)[1])[:60]) for path in ("/app", "/robot")],
    ],
)
async def test_a_body_of_another_shape_is_a_bad_request(client: Any, path: str, body: bytes) -> None:
    assert await post(client, path, sealed(MESSAGE)[0], body) == 400


@pytest.mark.parametrize("path", ["/app", "/robot"])
async def test_a_large_body_is_refused_with_and_without_its_length(client: Any, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 1024

    query = sealed(MESSAGE)[0]
    assert await post(client, path, query, b"A" * 4097) == 413
    assert await post(client, path, query, pieces()) == 413


async def test_no_limit_is_higher_than_callbacks_need(serve: Serve) -> None:
    assert MAX_BODY == 64 * 1024
    client = await serve(Callback(CRYPTO, max_body=1 << 30))
    assert await post(client, "/app", sealed(MESSAGE)[0], b"A" * (MAX_BODY + 1)) == 413


async def test_only_the_listed_networks_may_call(serve: Serve) -> None:
    query, encrypted = sealed(b"7")
    for networks, status in ((LOCAL, 200), (LOCAL[1:], 403)):
        client = await serve(Callback(CRYPTO, max_body=4096, allowed=networks))
        assert await verify(client, query | {"echostr": encrypted}) == status
        for path in ("/app", "/robot"):
            assert await post(client, path, query, outer(path, encrypted)) == status


@pytest.mark.parametrize(
    ("remote", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("10.2.0.1", False),
        ("::ffff:10.2.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        (None, False),
    ],
)
async def test_addresses_of_both_families(remote: str | None, allowed: bool) -> None:
    query, encrypted = sealed(b"7")
    url = str(URL("/app").with_query(query | {"echostr": encrypted}))
    request = make_mocked_request("GET", url).clone(remote=remote)  # type: ignore[arg-type]
    gate = Callback(CRYPTO, max_body=4096, allowed=LOCAL)
    if allowed:
        assert (await gate.verify(request)).body == b"7"
    else:
        with pytest.raises(Refused) as caught:
            await gate.verify(request)
        assert caught.value.status == 403


@pytest.mark.parametrize(("age", "fresh"), [(250, True), (-250, True), (400, False), (-400, False)])
async def test_the_replay_window_is_open_both_ways(serve: Serve, age: int, fresh: bool) -> None:
    client = await serve(Callback(CRYPTO, max_body=4096, replay_window=300))
    query, encrypted = sealed(b"7", str(int(time.time()) - age))
    assert await verify(client, query | {"echostr": encrypted}) == (200 if fresh else 403)
    for path in ("/app", "/robot"):
        assert await post(client, path, query, outer(path, encrypted)) == (200 if fresh else 403)


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "１７", "9" * 5000])
async def test_a_replay_window_needs_seconds(serve: Serve, timestamp: str) -> None:
    query, encrypted = sealed(MESSAGE, timestamp)
    strict = await serve(Callback(CRYPTO, max_body=4096, replay_window=300))
    assert await post(strict, "/app", query, outer("/app", encrypted)) == 403
    lenient = await serve(Callback(CRYPTO, max_body=4096))
    assert await post(lenient, "/app", query, outer("/app", encrypted)) == 200


async def test_a_passive_answer_is_an_envelope_of_its_own() -> None:
    answer = xml.parse(Callback(CRYPTO, max_body=4096).seal_xml(MESSAGE))
    assert set(answer) == {"Encrypt", "MsgSignature", "TimeStamp", "Nonce"}
    assert abs(int(answer["TimeStamp"]) - time.time()) < 60
    parts = [answer[name] for name in ("MsgSignature", "TimeStamp", "Nonce", "Encrypt")]
    assert CRYPTO.open(*parts) == MESSAGE


async def test_a_json_answer_repeats_the_nonce() -> None:
    answer = json.loads(Callback(CRYPTO, max_body=4096).seal_json(MESSAGE, "n-7"))
    assert set(answer) == {"encrypt", "msgsignature", "timestamp", "nonce"}
    assert answer["nonce"] == "n-7"
    assert isinstance(answer["timestamp"], int)
    opened = CRYPTO.open(answer["msgsignature"], str(answer["timestamp"]), "n-7", answer["encrypt"])
    assert opened == MESSAGE
