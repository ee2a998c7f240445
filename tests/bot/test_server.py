"""The HTTP server: health, metrics for the operator only, JSON errors, and an orderly start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bot.config import ServerSettings
from bot.connectors.base import Capabilities, Status
from bot.errors import ConfigError
from bot.metrics import Metrics
from bot.server import Server


class Platform:
    """A connector that is nothing but routes."""

    kind = name = "test"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.status = Status("ok")
        self.streaming = asyncio.Event()

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.post("/test", self.take),
            web.get("/fails", self.fail),
            web.get("/stream", self.stream),
        ]

    async def take(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def fail(self, request: web.Request) -> web.Response:
        raise RuntimeError("the reason is nobody's business")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.streaming.set()
        await asyncio.Event().wait()
        return response


class Running:
    """A server with a client beside it."""

    def __init__(self, client: aiohttp.ClientSession, **settings: Any) -> None:
        self.ready: tuple[bool, dict[str, Any]] = (True, {"store": {"state": "ok"}})
        self.platform = Platform()
        self.server = Server(
            ServerSettings(port=0, **settings),
            [self.platform],
            self.health,
            Metrics(),  # type: ignore[list-item]
        )
        self._client = client

    async def health(self) -> tuple[bool, dict[str, Any]]:
        return self.ready

    def call(self, method: str, path: str, **options: Any) -> Any:
        return self._client.request(method, f"http://127.0.0.1:{self.server.port}{path}", **options)

    async def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.call(method, path, **options) as response:
            assert response.content_type == "application/json"
            assert response.headers["Server"] == "glmbot"
            return response.status, await response.json()


@pytest.fixture
async def start() -> AsyncIterator[Any]:
    running: list[Running] = []
    async with aiohttp.ClientSession() as client:

        async def start(**settings: Any) -> Running:
            running.append(Running(client, **settings))
            await running[-1].server.start()
            return running[-1]

        yield start
        for item in running:
            await item.server.stop()


async def test_alive_and_ready_are_two_questions(start: Any) -> None:
    running = await start()
    assert await running.json("GET", "/healthz") == (200, {"status": "alive"})
    assert await running.json("GET", "/readyz") == (200, {"ready": True, "store": {"state": "ok"}})
    running.ready = (False, {"store": {"state": "down"}})
    assert await running.json("GET", "/healthz") == (200, {"status": "alive"})
    assert await running.json("GET", "/readyz") == (503, {"ready": False, "store": {"state": "down"}})


async def test_errors_are_json_and_tell_nothing_of_the_inside(start: Any) -> None:
    running = await start(max_body=1024)
    assert await running.json("GET", "/nowhere") == (404, {"error": "Not Found"})
    async with running.call("GET", "/test") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
    assert (await running.json("POST", "/test", data=b"x" * 1025))[0] == 413
    with capture_logs() as logs:
        status, answer = await running.json("GET", "/fails")
    assert status == 500
    assert "nobody" not in str(answer)
    [entry] = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["exc_info"]
    assert entry["error_id"] == answer["id"]


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /test HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\ntoo short",
        b"POST /test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_nobody_can_fill_the_log_by_speaking_bad_http(
    start: Any, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start()
    with capture_logs() as logs:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port)
        writer.write(sent)
        writer.write_eof()
        assert b"Traceback" not in await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert (await running.json("GET", "/healthz"))[0] == 200
    assert not logs
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


async def test_metrics_without_a_token_are_for_this_machine_only(start: Any) -> None:
    running = await start()
    async with running.call("GET", "/metrics") as response:
        assert response.status == 200
        assert "glmbot_messages_received" in await response.text()
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert (await running.json("GET", "/metrics", headers={header: "127.0.0.1"}))[0] == 403


async def test_metrics_with_a_token_are_for_its_bearer_only(start: Any) -> None:
    running = await start(admin_token="right-token")
    for given in (
        "",
        "Bearer",
        "Bearer wrong",
        "Basic right-token",
        "Bearer right-token-and-more",
        "Bearer é",
    ):
        assert (await running.json("GET", "/metrics", headers={"Authorization": given}))[0] == 401
    async with running.call("GET", "/metrics", headers={"Authorization": "Bearer right-token"}) as response:
        assert response.status == 200


async def test_a_taken_port_is_a_config_error_that_names_it(start: Any) -> None:
    taken = (await start()).server.port
    other = Server(ServerSettings(port=taken), [], Running.health, Metrics())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"port {taken} is in use") as failed:
        await other.start()
    assert failed.value.key == "server.port"
    await other.stop()


async def test_an_address_of_another_machine_is_a_config_error_that_names_it() -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        server = Server(ServerSettings(host=host, port=0), [], Running.health, Metrics())  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as failed:
            await server.start()
        assert failed.value.key == "server.host"


async def test_an_open_stream_does_not_hold_up_the_stop(start: Any) -> None:
    running = await start()
    async with running.call("GET", "/stream"):
        await running.platform.streaming.wait()
        await asyncio.wait_for(running.server.stop(), 10)
