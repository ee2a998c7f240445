"""The server by itself: where it may listen, sizes, unknown paths, health, metrics, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from model.http.faces import Faces, mount
from model.http.keys import Keys
from model.http.server import ModelServer, check_host, is_loopback, serve
from model.types import ModelError
from tests.model.http.talker import Lengths, Site, Talker, chat_body, error_of, until


def test_the_faces_need_no_torch() -> None:
    code = "import sys, model.http.server; print(sorted({'torch', 'bot', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_host(host, Keys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "127.0.0.1.example.org"])
def test_elsewhere_it_does_not_listen_without_a_key(talker: Talker, host: str) -> None:
    with pytest.raises(ModelError, match=r"anybody could use the model; .*glmbot model key new"):
        ModelServer(Faces(talker), host=host)
    ModelServer(Faces(talker, keys=Keys(["secret"])), host=host)


async def test_a_port_in_use_is_said(talker: Talker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ModelError, match=f"port {port} is in use"):
            await ModelServer(Faces(talker), port=port).start()
    with pytest.raises(ModelError, match=r"no address '192\.0\.2\.1'"):
        await ModelServer(Faces(talker, keys=Keys(["secret"])), host="192.0.2.1", port=0).start()


async def test_a_body_that_is_too_large_is_413(serve: Any, talker: Talker) -> None:
    site = await serve(server={"max_body": 1000})
    for path in ("/", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
        answer = await site.ask(path, "x" * 1001)
        assert answer[0] == 413
        assert error_of(answer)["code"] == "request_too_large"
    assert talker.calls == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("DELETE", "/v1/models", 405), ("GET", "/", 405), ("OPTIONS", "/", 405)],
)
async def test_unknown_paths_and_methods_are_json_errors(
    site: Site, method: str, path: str, status: int
) -> None:
    answer = await site.ask(path, method=method)
    assert answer[0] == status
    error_of(answer)
    assert ("Allow" in answer[2]) == (status == 405)


async def test_health_needs_no_key_and_metrics_do(serve: Any) -> None:
    registry = CollectorRegistry()
    Counter("glmbot_model_answers", "Answers", registry=registry).inc(3)
    site = await serve({"collector": registry}, keys=Keys(["secret"]))
    assert (await site.ask("/healthz"))[:2] == (200, {"status": "alive"})
    assert (await site.ask("/metrics"))[0] == 401
    async with site.client.get(
        site.server.url + "/metrics", headers={"Authorization": "Bearer secret"}
    ) as response:
        assert "glmbot_model_answers_total 3.0" in await response.text()


async def test_without_a_collector_there_are_no_metrics(site: Site) -> None:
    assert (await site.ask("/metrics"))[0] == 404


async def test_who_does_not_speak_http_does_not_fill_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Null: \x00\r\n\r\n")
    assert (await reader.readline()).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    writer.close()
    await writer.wait_closed()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_headers_tell_little_and_forbid_guessing(site: Site) -> None:
    _, _, headers = await site.chat()
    assert headers["Server"] == "glmbot"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


async def test_mounted_elsewhere_a_key_is_always_needed(talker: Talker) -> None:
    app = web.Application()
    app.router.add_routes(mount(talker, name="glm"))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/models") as response,
    ):
        assert response.status == 401
    await runner.cleanup()


@pytest.fixture
async def mounted(talker: Talker) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """Mounts the faces in somebody else's server; the parameters are those of `mount`."""
    runners = list[web.AppRunner]()
    sites = list[Site]()

    async def start(model: Talker | None = talker, **options: Any) -> Site:
        app = web.Application()
        app.router.add_routes(mount(model, api_keys=["k"], **options))
        runners.append(web.AppRunner(app, access_log=None))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runners[-1].addresses[0][1]}"
        sites.append(Site(SimpleNamespace(url=url), aiohttp.ClientSession()))  # type: ignore[arg-type]
        return sites[-1]

    yield start
    for site in sites:
        await site.client.close()
    for runner in runners:
        await runner.cleanup()


async def test_mounted_elsewhere_the_root_is_the_others(
    mounted: Callable[..., Awaitable[Site]], talker: Talker
) -> None:
    site = await mounted()
    status, body, _ = await site.ask("/chatglm", {"prompt": "hi"}, key="k")
    assert (status, body["status"]) == (200, 200)
    async with site.client.post(site.server.url, json={"prompt": "hi"}) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nope", 404), ("DELETE", "/v1/models", 405), ("GET", "/v1/", 404)],
)
async def test_mounted_elsewhere_errors_are_openais_too(
    mounted: Callable[..., Awaitable[Site]], method: str, path: str, status: int
) -> None:
    answer = await (await mounted()).ask(path, method=method)
    assert answer[0] == status
    error_of(answer)
    assert ("Allow" in answer[2]) == (status == 405)


async def test_without_a_model_there_are_embeddings(mounted: Callable[..., Awaitable[Site]]) -> None:
    site = await mounted(None, encoder=Lengths())
    status, body, _ = await site.ask("/v1/embeddings", {"model": "lengths", "input": "abc"}, key="k")
    assert status == 200
    assert body["usage"]["prompt_tokens"] == 3
    _, listed, _ = await site.ask("/v1/models", key="k")
    assert [model["id"] for model in listed["data"]] == ["lengths"]
    for path, asked in (("/v1/chat/completions", chat_body()), ("/chatglm", {"prompt": "hi"})):
        answer = await site.ask(path, asked, key="k")
        assert answer[0] == 404
        assert error_of(answer)["code"] == "no_model"
        assert answer[2]["x-should-retry"] == "false"


async def test_a_model_that_is_over_is_not_healthy(serve: Any, talker: Talker) -> None:
    site = await serve()
    talker.problem = "the model is stuck"
    status, body, _ = await site.ask("/healthz")
    assert (status, body["problem"]) == (503, "the model is stuck")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
async def test_a_signal_ends_the_server_and_closes_the_model(talker: Talker) -> None:
    server = ModelServer(Faces(talker), port=0)
    serving = asyncio.create_task(serve(server, talker))
    await until(lambda: server.port != 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert talker.closed


async def test_a_server_that_cannot_start_closes_the_model(talker: Talker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = ModelServer(Faces(talker), port=taken.getsockname()[1])
        with pytest.raises(ModelError, match="is in use"):
            await serve(server, talker)
    assert talker.closed
