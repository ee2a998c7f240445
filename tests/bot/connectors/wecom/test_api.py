"""Calls to WeCom's API: what goes out, what is made of the answers, and that limits are kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom import api as api_module
from bot.connectors.wecom.api import ApiError, Http, QyApi, file_name
from bot.connectors.wecom.client import MAX_JSON
from bot.connectors.wecom.pace import Limit, Pace
from bot.connectors.wecom.token import AccessToken
from bot.errors import MAY_HAVE_ARRIVED
from bot.metrics import Metrics
from tests.bot.connectors.wecom.qyapi import AGENT, KEY, Call, FakeQyApi, Refusal


def message(text: str = "您好") -> dict[str, Any]:
    return {"touser": "li", "msgtype": "text", "agentid": AGENT, "text": {"content": text}}


async def refused(api: QyApi, method: str = "message/send") -> ApiError:
    with pytest.raises(ApiError) as caught:
        await api.post(method, message())
    return caught.value


def held(metrics: Metrics, reason: str) -> float | None:
    labels = {"connector": "shop", "reason": reason}
    return metrics.registry.get_sample_value("glmbot_sends_held_total", labels)


# -- calls ----------------------------------------------------------------------------------


async def test_json_goes_out_as_utf_8(api: QyApi, qyapi: FakeQyApi) -> None:
    text = '开票 "发票"\n\\u4f60 👍'
    await api.post("message/send", message(text), params={"debug": "1"})
    assert qyapi.of("message/send") == [message(text)]
    assert qyapi.calls[-1].query["debug"] == "1"


async def test_half_a_character_does_no_harm(api: QyApi, qyapi: FakeQyApi) -> None:
    await api.post("message/send", message("a\ud83db"))
    assert qyapi.of("message/send") == [message("a?b")]
    with pytest.raises(ApiError):
        await api.download("\ud83d", 100)


async def test_a_robot_calls_by_its_key(http: Http, api_base: str, qyapi: FakeQyApi) -> None:
    robot = QyApi(http, api_base)
    payload = {"msgtype": "markdown", "markdown": {"content": "**好**"}}
    await robot.post("webhook/send", payload, params={"key": KEY})
    assert qyapi.of("webhook/send") == [payload]
    assert not qyapi.tokens
    with pytest.raises(ApiError) as caught:
        await robot.post("webhook/send", payload, params={"key": "KEY-that-is-wrong"})
    assert caught.value.code == 93000
    assert not caught.value.permanent
    assert "KEY-that" not in str(caught.value)


async def test_fields_are_read_by_get(api: QyApi, qyapi: FakeQyApi) -> None:
    qyapi.answers["agent/get"] = lambda call: {"agentid": int(call.query["agentid"]), "name": "客服"}
    assert (await api.get("agent/get", {"agentid": str(AGENT)}))["name"] == "客服"


# -- errcodes -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [40014, 41001, 42001])
async def test_a_refused_token_is_renewed_and_the_call_repeated_once(
    api: QyApi, qyapi: FakeQyApi, code: int
) -> None:
    qyapi.refuse("message/send", code)
    await api.post("message/send", message())
    assert len(qyapi.of("message/send")) == 2
    qyapi.refuse("message/send", code, times=2)
    error = await refused(api)
    assert error.code == code
    assert not error.permanent
    assert len(qyapi.of("message/send")) == 4


async def test_a_refusal_is_told_by_its_code(api: QyApi, qyapi: FakeQyApi) -> None:
    qyapi.unknown_users.add("li")
    error = await refused(api)
    assert (error.method, error.code, error.errmsg) == ("message/send", 81013, "all users invalid")
    assert error.permanent
    assert error.retry_after is None
    assert error.explanation is not None
    assert error.explanation.en in str(error)


@pytest.mark.parametrize(("code", "pause"), [(45009, 60), (45033, 2), (-1, None), (60020, None), (7, None)])
async def test_what_passes_is_retried(api: QyApi, qyapi: FakeQyApi, code: int, pause: float | None) -> None:
    qyapi.refuse("message/send", code)
    error = await refused(api)
    assert (error.code, error.retry_after, error.permanent) == (code, pause, False)
    await api.post("message/send", message())


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text="<html>bad gateway</html>", status=502, content_type="text/html"),
        web.Response(text="", status=200),
        web.Response(text="[]", content_type="application/json"),
        web.Response(text="[" * 100_000, content_type="application/json"),
        web.Response(text='{"errmsg":"ok"}', content_type="application/json"),
        web.Response(text='{"errcode":"0"}', content_type="application/json"),
        web.Response(text='{"errcode":false}', content_type="application/json"),
        web.Response(text='{"errcode":0}', status=500, content_type="application/json"),
        web.Response(body=b'{"errcode":0,"x":"\xff"}', content_type="application/json"),
        web.Response(body=b"0" * (MAX_JSON + 1), content_type="application/json"),
        web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_what_is_no_answer_of_the_api_has_no_code(
    api: QyApi, qyapi: FakeQyApi, answer: web.Response
) -> None:
    qyapi.reply("message/send", answer)
    error = await refused(api)
    assert (error.code, error.permanent) == (None, False)


async def test_an_errcode_counts_whatever_the_status(api: QyApi, qyapi: FakeQyApi) -> None:
    body = json.dumps({"errcode": 45009, "errmsg": "api\nfreq " + "x" * 10_000})
    qyapi.reply("message/send", web.Response(text=body, status=429, content_type="text/plain"))
    error = await refused(api)
    assert error.code == 45009
    assert "\n" not in str(error)
    assert len(str(error)) < 600


async def test_a_redirect_is_not_followed(api: QyApi, qyapi: FakeQyApi) -> None:
    headers = {"Location": "/cgi-bin/elsewhere"}
    qyapi.reply("message/send", web.Response(status=307, headers=headers))
    assert (await refused(api)).code is None
    assert not qyapi.of("elsewhere")


async def test_a_broken_connection_and_silence_have_no_code_and_tell_no_token(
    api: QyApi, qyapi: FakeQyApi
) -> None:
    await api.post("message/send", message())
    qyapi.cut("message/send")
    errors = [await refused(api)]
    qyapi.gates["message/send"] = asyncio.Event()
    with pytest.raises(ApiError, match="no answer in time") as caught:
        await api.post("message/send", message(), timeout=0.05)
    errors.append(caught.value)
    qyapi.gates["message/send"].set()
    qyapi.answers["message/send"] = lambda call: {"errcode": 9, "errmsg": call.query["access_token"]}
    errors.append(await refused(api))
    assert [error.code for error in errors] == [None, None, 9]
    for error in errors:
        assert qyapi.tokens[0] not in f"{error} {error!r} {vars(error)}"
        assert error.__context__ is None


async def test_after_close_nothing_is_called(api: QyApi, qyapi: FakeQyApi) -> None:
    await api.post("message/send", message())
    await api.close()
    await api.close()
    assert "closed" in str(await refused(api))


# -- how long an answer is tried ------------------------------------------------------------


async def send(api: QyApi) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await api.send("message/send", message())
    return caught.value


async def test_what_may_have_arrived_is_not_tried_for_long(
    api: QyApi, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.send("message/send", message())
    qyapi.cut("message/send")
    errors = [await send(api)]
    for status in (200, 502, 504):
        qyapi.reply("message/send", web.Response(text="gateway", status=status))
        errors.append(await send(api))
    monkeypatch.setattr(api_module, "SEND_TIMEOUT", 0.1)
    qyapi.gates["message/send"] = asyncio.Event()
    errors.append(await send(api))
    qyapi.gates["message/send"].set()
    assert [error.patience for error in errors] == [MAY_HAVE_ARRIVED] * 5
    assert [error.refused for error in errors] == [False] * 5


async def test_a_slow_wecom_has_half_a_minute(api: QyApi, qyapi: FakeQyApi) -> None:
    assert api_module.SEND_TIMEOUT == 30


async def test_what_was_never_sent_is_tried_for_as_long_as_it_takes(
    http: Http, api: QyApi, token: AccessToken, qyapi: FakeQyApi
) -> None:
    for _ in range(2):  # the client itself repeats a GET once
        qyapi.cut("gettoken")
    error = await send(api)
    assert (error.method, error.patience) == ("gettoken", None)
    no_token_needed = QyApi(http, "http://127.0.0.1:9")
    error = await send(no_token_needed)
    assert (error.method, error.patience) == ("message/send", None)


@pytest.mark.parametrize(
    ("code", "patience"),
    [(7, 600), (999_999, 600), (60020, None), (40001, None), (48002, None), (45009, None), (-1, None)],
)
async def test_a_refusal_that_nobody_knows_is_not_tried_for_days(
    api: QyApi, qyapi: FakeQyApi, code: int, patience: float | None
) -> None:
    qyapi.refuse("message/send", code)
    error = await send(api)
    assert (error.patience, error.refused, error.permanent) == (patience, patience is not None, False)


@pytest.mark.parametrize(
    ("status", "patience"), [(400, 600), (403, 600), (404, 600), (408, None), (429, None), (307, None)]
)
async def test_a_refusal_without_errcode_is_not_tried_for_days(
    api: QyApi, qyapi: FakeQyApi, status: int, patience: float | None
) -> None:
    qyapi.reply("message/send", web.Response(text="no", status=status))
    error = await send(api)
    assert (error.patience, error.refused) == (patience, patience is not None)


async def test_a_secret_that_is_refused_can_be_mended_whatever_the_errcode(
    api: QyApi, qyapi: FakeQyApi
) -> None:
    qyapi.refuse("gettoken", 999_999)
    error = await send(api)
    assert (error.method, error.patience, error.refused) == ("gettoken", None, False)


async def test_the_summary_has_none_of_the_platforms_words(api: QyApi, qyapi: FakeQyApi) -> None:
    def refuse(call: Call) -> dict[str, Any]:
        raise Refusal(60020, "not allow to access from your ip, from ip: 203.0.113.9")

    qyapi.answers["message/send"] = refuse
    error = await send(api)
    assert "203.0.113.9" in error.problem
    assert "203.0.113.9" not in error.summary
    assert error.explanation is not None
    assert error.explanation.en in error.summary


# -- limits ---------------------------------------------------------------------------------


async def test_callers_of_one_pace_share_the_limits_of_each_api(
    http: Http, api_base: str, token: AccessToken, qyapi: FakeQyApi
) -> None:
    pace, metrics = Pace(Limit(2, 60)), Metrics()
    one = QyApi(http, api_base, token, pace=pace)
    other = QyApi(http, api_base, token, pace=pace, metrics=metrics, connector="shop")
    await one.post("message/send", message())
    await other.post("message/send", message())
    error = await refused(other)
    assert error.code is None
    assert error.retry_after is not None
    assert 59 < error.retry_after <= 60
    assert len(qyapi.of("message/send")) == 2
    for part in ("p1", "p1", "p2"):
        with pytest.raises(ApiError):
            await other.send("message/send", message(), part=part)
    assert held(metrics, "api_pace") == 2  # parts, not tries, nor what is no part
    await other.post("agent/get", {})


async def test_a_call_that_the_platform_limits_is_counted(
    http: Http, api_base: str, token: AccessToken, qyapi: FakeQyApi
) -> None:
    metrics = Metrics()
    api = QyApi(http, api_base, token, metrics=metrics, connector="shop")
    qyapi.refuse("message/send", 45009, times=2)
    for _ in range(2):
        with pytest.raises(ApiError):
            await api.send("message/send", message(), part="p1")
    assert held(metrics, "api_frequency") == 1


# -- media ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("报价单 2024.xlsx", "报价单 2024.xlsx"),
        ('a"b\r\nX-Evil: 1.png', "a_b__X-Evil_ 1.png"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("", "file"),
        ("长" * 500 + ".pdf", "长" * 76 + ".pdf"),
    ],
)
async def test_a_file_arrives_with_its_name(api: QyApi, qyapi: FakeQyApi, name: str, sent: str) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB, with everything that could look like a boundary
    media_id = await api.upload("file", name, data)
    assert qyapi.media[media_id] == (sent, data)
    assert qyapi.calls[-1].query["type"] == "file"
    assert await api.download(media_id, len(data)) == data


@given(st.text())
def test_file_names_are_harmless(name: str) -> None:
    clean = file_name(name)
    assert 0 < len(clean) <= 80
    assert not set(clean) & set('\r\n\t\0"\\/')
    assert clean.encode()


async def test_a_robots_file_goes_to_the_robots_address(http: Http, api_base: str, qyapi: FakeQyApi) -> None:
    robot = QyApi(http, api_base)
    media_id = await robot.upload(
        "file", "a.txt", b"12345", params={"key": KEY}, method="webhook/upload_media"
    )
    assert qyapi.media[media_id] == ("a.txt", b"12345")


async def test_an_upload_too_is_repeated_with_a_new_token(api: QyApi, qyapi: FakeQyApi) -> None:
    qyapi.refuse("media/upload", 42001)
    assert qyapi.media[await api.upload("image", "a.png", b"image")] == ("a.png", b"image")
    qyapi.answers.clear()
    qyapi.reply("media/upload", web.json_response({"errcode": 0}))
    with pytest.raises(ApiError):
        await api.upload("image", "a.png", b"image")


async def test_a_refused_download_is_no_file(api: QyApi, qyapi: FakeQyApi) -> None:
    with pytest.raises(ApiError) as caught:
        await api.download("unknown", 1)
    assert caught.value.code == 40007
    qyapi.reply("media/get", web.Response(text='{"errcode":40007}', content_type="text/plain"))
    with pytest.raises(ApiError) as caught:
        await api.download("unknown", 1)
    assert caught.value.code == 40007
    qyapi.reply("media/get", web.Response(body=b"image", status=500, content_type="image/png"))
    with pytest.raises(ApiError, match="500"):
        await api.download("unknown", 100)
    qyapi.refuse("media/get", 40014)
    qyapi.media["m"] = ("notes.txt", b'{"errcode": 40007}')  # a customer's file may say anything
    assert await api.download("m", 100) == b'{"errcode": 40007}'
    qyapi.reply("media/get", web.Response(text="plain words", content_type="text/plain"))
    assert await api.download("m", 100) == b"plain words"


async def test_a_download_stays_within_its_limit(api: QyApi, qyapi: FakeQyApi) -> None:
    qyapi.media["m"] = ("a.bin", bytes(200_000))
    assert len(await api.download("m", 200_000)) == 200_000
    for limit in (199_999, 10):
        with pytest.raises(ApiError, match="more than") as caught:
            await api.download("m", limit)
        assert caught.value.code is None
