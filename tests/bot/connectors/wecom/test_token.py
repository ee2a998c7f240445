"""One token for all: how often it is asked for, when it is replaced, and what a failure does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from bot.connectors.wecom.api import ApiError, Http, QyApi
from bot.connectors.wecom.token import AccessToken
from tests.bot.connectors.wecom.qyapi import AGENT, CORP, SECRET, FakeQyApi

MESSAGE = {"touser": "li", "msgtype": "text", "agentid": AGENT, "text": {"content": "好"}}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def token(http: Http, api_base: str, clock: Clock) -> AccessToken:
    return AccessToken(http, api_base, CORP, SecretStr(SECRET), clock=clock)


async def settled(token: AccessToken) -> None:
    """Let a refresh in the background end."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "wecom gettoken"]
    await asyncio.gather(*tasks)


async def test_a_thousand_sends_ask_for_one_token(api: QyApi, qyapi: FakeQyApi) -> None:
    answers = await asyncio.gather(*(api.post("message/send", MESSAGE) for _ in range(1000)))
    assert len({answer["msgid"] for answer in answers}) == 1000
    assert len(qyapi.of("gettoken")) == 1


async def test_a_thousand_sends_with_a_revoked_token_renew_it_once(api: QyApi, qyapi: FakeQyApi) -> None:
    await api.post("message/send", MESSAGE)
    qyapi.revoke()
    await asyncio.gather(*(api.post("message/send", MESSAGE) for _ in range(1000)))
    assert len(qyapi.of("gettoken")) == 2


async def test_a_token_someone_else_has_replaced_is_not_renewed_again(
    token: AccessToken, qyapi: FakeQyApi
) -> None:
    first = await token.get()
    qyapi.revoke()
    second = await token.renew(first)
    assert second != first
    assert await token.renew(first) == second
    assert len(qyapi.of("gettoken")) == 2


@pytest.mark.parametrize(("expires_in", "early"), [(7200, 300), (600, 60)])
async def test_it_is_replaced_early_and_nobody_waits_for_that(
    token: AccessToken, qyapi: FakeQyApi, clock: Clock, expires_in: int, early: int
) -> None:
    qyapi.expires_in = expires_in
    first = await token.get()
    clock.now += expires_in - early - 1
    assert await token.get() == first
    assert len(qyapi.of("gettoken")) == 1
    qyapi.revoke()
    qyapi.gates["gettoken"] = asyncio.Event()
    clock.now += 1
    assert await token.get() == first  # the next one is not here yet
    qyapi.gates["gettoken"].set()
    await settled(token)
    assert await token.get() != first
    assert len(qyapi.of("gettoken")) == 2


async def test_an_old_token_serves_until_its_end_while_no_new_one_can_be_had(
    token: AccessToken, qyapi: FakeQyApi, clock: Clock
) -> None:
    first = await token.get()
    qyapi.refuse("gettoken", -1, times=2)
    clock.now += 7000
    assert await token.get() == first
    await settled(token)
    assert await token.get() == first
    clock.now += 200
    with pytest.raises(ApiError) as caught:
        await token.get()
    assert caught.value.code == -1
    assert len(qyapi.of("gettoken")) == 3


@pytest.mark.parametrize("expires_in", [0, -5, None, "7200", True, 1e300])
async def test_a_lifetime_without_sense_does_not_make_it_ask_for_every_call(
    token: AccessToken, qyapi: FakeQyApi, expires_in: Any
) -> None:
    qyapi.expires_in = expires_in
    assert await token.get() == await token.get()
    assert len(qyapi.of("gettoken")) == 1


async def test_a_cancelled_caller_does_not_take_the_token_from_the_others(
    token: AccessToken, qyapi: FakeQyApi
) -> None:
    qyapi.gates["gettoken"] = asyncio.Event()
    first, second = asyncio.create_task(token.get()), asyncio.create_task(token.get())
    await qyapi.called("gettoken")
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    qyapi.gates["gettoken"].set()
    assert await second == qyapi.tokens[0]
    assert len(qyapi.of("gettoken")) == 1


async def test_all_who_wait_share_a_refusal_and_none_asks_again_for_some_seconds(
    token: AccessToken, qyapi: FakeQyApi, clock: Clock
) -> None:
    qyapi.refuse("gettoken", 60020)
    errors = await asyncio.gather(*(token.get() for _ in range(1000)), return_exceptions=True)
    assert {type(error) for error in errors} == {ApiError}
    assert {getattr(error, "code", None) for error in errors} == {60020}
    assert len(set(map(id, errors))) == 1000  # each with a traceback of its own
    clock.now += 4
    with pytest.raises(ApiError):
        await token.get()
    assert len(qyapi.of("gettoken")) == 1
    clock.now += 1
    assert await token.get() == qyapi.tokens[0]


async def test_no_answer_is_no_refusal(token: AccessToken, qyapi: FakeQyApi, clock: Clock) -> None:
    for _ in range(2):  # the client itself repeats a GET once
        qyapi.cut("gettoken")
    with pytest.raises(ApiError) as caught:
        await token.get()
    assert caught.value.code is None
    assert not caught.value.permanent
    clock.now += 1
    assert await token.get() == qyapi.tokens[0]


async def test_tokens_refused_again_and_again_are_not_fetched_without_end(
    api: QyApi, qyapi: FakeQyApi
) -> None:
    qyapi.refuse("message/send", 40014, times=100)
    for _ in range(30):
        with pytest.raises(ApiError) as caught:
            await api.post("message/send", MESSAGE)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60
    assert len(qyapi.of("gettoken")) <= 11


@pytest.mark.parametrize("fields", ["{}", '{"errcode":0}', '{"errcode":0,"access_token":7}', "[", "null"])
async def test_an_answer_without_a_token_is_an_error(
    token: AccessToken, qyapi: FakeQyApi, fields: str
) -> None:
    qyapi.reply("gettoken", web.Response(text=fields, content_type="application/json"))
    with pytest.raises(ApiError) as caught:
        await token.get()
    assert caught.value.code is None


async def test_a_secret_is_told_nowhere(
    http: Http, api_base: str, qyapi: FakeQyApi, capsys: pytest.CaptureFixture[str]
) -> None:
    token = AccessToken(http, api_base, CORP, SecretStr("a-wrong-secret"))
    with pytest.raises(ApiError) as caught:  # the server repeats the secret in its errmsg
        await token.get()
    assert caught.value.code == 40001
    with pytest.raises(ApiError) as unreachable:
        await AccessToken(http, "http://127.0.0.1:9", CORP, SecretStr("a-wrong-secret")).get()
    output = capsys.readouterr()
    for error in (caught.value, unreachable.value):
        assert "a-wrong-secret" not in f"{error} {error!r} {error.errmsg} {vars(error)}"
        assert error.__context__ is None
    assert "a-wrong-secret" not in output.out + output.err
