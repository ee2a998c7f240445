"""A fake of WeCom's API, and what calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from bot.connectors.wecom.api import Http, QyApi
from bot.connectors.wecom.token import AccessToken
from tests.bot.connectors.wecom.qyapi import CORP, SECRET, FakeQyApi


@pytest.fixture
async def qyapi() -> FakeQyApi:
    return FakeQyApi()


@pytest.fixture
async def api_base(qyapi: FakeQyApi) -> AsyncIterator[str]:
    async with TestServer(qyapi.app(), host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    http = Http()
    yield http
    await http.close()


@pytest.fixture
def token(http: Http, api_base: str) -> AccessToken:
    return AccessToken(http, api_base, CORP, SecretStr(SECRET))


@pytest.fixture
def api(http: Http, api_base: str, token: AccessToken) -> QyApi:
    return QyApi(http, api_base, token)
