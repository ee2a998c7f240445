"""Webhook mode: registration, refusals, and that 200 means committed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.connectors.telegram import receiver
from bot.errors import Overloaded, StoreError

SECRET = "s3cret_X"
URL = "https://bot.example.org/telegram/main"
HEADERS = {"X-Telegram-Bot-Api-Secret-Token": SECRET, "Content-Type": "application/json"}
MESSAGE = {"message_id": 1, "chat": {"id": 5, "type": "private"}, "from": {"id": 5}, "text": "hello"}
UPDATE = json.dumps({"update_id": 10, "message": MESSAGE}).encode()


@pytest.fixture
async def telegram(connect: Any) -> Any:
    return await connect(mode="webhook", public_url=URL, secret=SECRET)


@pytest.fixture
async def client(telegram: Any) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    app.router.add_routes(telegram.routes())
    async with TestClient(TestServer(app, host="127.0.0.1")) as client:
        yield client


async def post(client: Any, body: Any, headers: dict[str, str] = HEADERS) -> int:
    async with client.post("/telegram/main", data=body, headers=headers) as response:
        body = await response.read()
        assert (response.status == 200) == (body == b"")
        return int(response.status)


async def test_the_webhook_is_registered_with_its_secret(api: Any, telegram: Any) -> None:
    params = (await api.called("setWebhook"))[0]
    assert (params["url"], params["secret_token"]) == (URL, SECRET)
    assert "message" in params["allowed_updates"]
    assert 1 <= params["max_connections"] <= 100
    assert not api.of("getUpdates")


async def test_200_says_that_an_update_is_committed(api: Any, inlet: Any, telegram: Any, client: Any) -> None:
    await api.called("setWebhook")
    assert await asyncio.gather(*(post(client, UPDATE) for _ in range(6))) == [200] * 6
    assert [message.text for message in inlet.messages] == ["hello"]


@pytest.mark.parametrize("secret", [None, "wrong", SECRET + "x", "sécret"])
async def test_a_wrong_secret_is_refused(inlet: Any, client: Any, secret: str | None) -> None:
    headers = {} if secret is None else {"X-Telegram-Bot-Api-Secret-Token": secret}
    assert await post(client, UPDATE, headers) == 401
    assert not inlet.messages


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\x00{", b"[1]", UPDATE[:-5], b"{}", b'{"update_id":"1"}', b'{"update_id":true}', b"[" * 4000],
)
async def test_what_is_no_update_is_refused(api: Any, telegram: Any, client: Any, body: bytes) -> None:
    await api.called("setWebhook")
    assert await post(client, body) == 400


async def test_a_large_body_is_refused_with_and_without_its_length(client: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 1024

    assert await post(client, b"x" * 5000) == 413
    assert await post(client, pieces()) == 413


async def test_only_post_is_taken(client: Any) -> None:
    async with client.get("/telegram/main", headers=HEADERS) as response:
        assert response.status == 405


@pytest.mark.parametrize("refusal", [Overloaded(7), StoreError("disk full")])
async def test_what_is_not_committed_is_to_come_again(
    api: Any, inlet: Any, telegram: Any, client: Any, refusal: Exception
) -> None:
    await api.called("setWebhook")
    inlet.refusals.append(refusal)
    async with client.post("/telegram/main", data=UPDATE, headers=HEADERS) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 5
    assert await post(client, UPDATE) == 200


async def test_a_stopped_bot_takes_nothing(api: Any, inlet: Any, telegram: Any, client: Any) -> None:
    await api.called("setWebhook")
    await telegram.stop()
    assert await post(client, UPDATE) == 503
    assert not inlet.messages


async def test_a_webhook_that_was_taken_away_is_set_again(
    api: Any, telegram: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "CHECK_WEBHOOK_EVERY", 0.01)
    api.hook = "https://else.example.org/"
    await api.called("setWebhook", 2)


async def test_polling_has_no_route(connect: Any) -> None:
    assert list((await connect()).routes()) == []
