"""Answers that do not end, and the environment's proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.connectors.wecom.client import ApiError, Http

LIMIT = 100_000


class Flood:
    """Answers /endless without an end, /announced with a huge Content-Length and then nothing."""

    def __init__(self) -> None:
        self.written = 0
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.path == "/announced":
            response.content_length = 1 << 40
        await response.prepare(request)
        try:
            while request.path == "/endless":
                await response.write(b"0" * 10_000)
                self.written += 10_000
            await asyncio.sleep(60)
        finally:
            self.ended.set()
        return response


@pytest.fixture
async def flood() -> Flood:
    return Flood()


@pytest.fixture
async def flood_url(flood: Flood) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path}", flood.answer)
    async with TestServer(app, host="127.0.0.1", handler_cancellation=True) as server:
        yield str(server.make_url("/"))


@pytest.mark.parametrize("path", ["endless", "announced"])
async def test_no_more_is_read_than_the_limit(http: Http, flood: Flood, flood_url: str, path: str) -> None:
    with pytest.raises(ApiError, match=f"more than {LIMIT} bytes"):
        await http.fetch("media/get", "GET", flood_url + path, limit=LIMIT, timeout=5)
    async with asyncio.timeout(5):
        await flood.ended.wait()  # the connection is given up
    assert flood.written < 20_000_000


async def test_loopback_is_called_without_the_environments_proxy(
    http: Http, flood_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = await http.fetch("any", "POST", flood_url + "here", data=b"{}")
    assert answer.status == 405


async def test_the_last_user_closes() -> None:
    http = Http(users=0)
    assert http.join() is http.join()
    session = http.session()
    await http.close()
    assert not session.closed
    await http.close()
    assert session.closed
    await http.close()
    with pytest.raises(ApiError, match="closed"):
        http.session()


async def test_a_closed_session_stays_closed(http: Http) -> None:
    session = http.session()
    assert http.session() is session
    await http.close()
    assert session.closed
    with pytest.raises(ApiError, match="closed"):
        http.session()
