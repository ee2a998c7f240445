"""Chat completions: shapes, bytes of streams, parameters, talks, and each error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError
from structlog.testing import capture_logs

from model.http import TIMEOUT
from model.http.bodies import Body, ChatBody, GlmBody
from model.http.faces import Faces
from model.types import (
    GenerationParams,
    ModelBusy,
    ModelError,
    ModelTimeout,
    PromptTooLong,
    Turn,
    Usage,
)
from tests.model.http.talker import Site, Talker, chat_body, error_of, until

PATH = "/v1/chat/completions"
TEXT = "Hello, 世界🌏"


# -- answers ---------------------------------------------------------------------------------


async def test_a_whole_answer_has_openais_fields(site: Site, talker: Talker) -> None:
    talker.usage = Usage(7, 4)
    status, body, headers = await site.chat()
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "fake-glm",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }


@pytest.mark.parametrize(("finish", "told"), [("stop", "stop"), ("length", "length"), ("cancelled", "stop")])
async def test_why_an_answer_ended_is_told(site: Site, talker: Talker, finish: str, told: str) -> None:
    talker.finish = finish
    assert (await site.chat())[1]["choices"][0]["finish_reason"] == told
    assert (await site.stream())[-1]["choices"][0]["finish_reason"] == told


async def test_a_stream_opens_with_the_role_and_closes_with_the_reason(site: Site, talker: Talker) -> None:
    talker.says = ["a", "", "b"]
    events = [event for event in await site.stream() if not isinstance(event, str)]
    assert [event["choices"] for event in events] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        for delta, finish in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "a"}, None),
            ({"content": "b"}, None),
            ({}, "stop"),
        )
    ]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    assert not any("usage" in event for event in events)


async def test_events_arrive_whole_and_characters_are_never_split(site: Site, talker: Talker) -> None:
    talker.says = ["世", "🌏", "\u2028\x85\u2029", "\n\n", "\ud83d", "data: x"]
    chunks = []
    async with site.client.post(site.server.url + PATH, json=chat_body(stream=True)) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        async for chunk, _ in response.content.iter_chunks():
            chunks.append(chunk)
    for chunk in chunks:
        assert chunk.endswith(b"\n\n")
        assert all(line.startswith("data: ") for line in chunk.decode().splitlines() if line)
    events = [json.loads(event[6:]) for event in b"".join(chunks).decode().split("\n\n")[:-2]]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == "世🌏\u2028\x85\u2029\n\n?data: x"


async def test_usage_comes_last_where_it_is_asked_for(site: Site, talker: Talker) -> None:
    talker.usage = Usage(7, 4)
    *events, last = await site.stream(stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


async def test_tokens_are_counted_where_the_model_does_not(site: Site) -> None:
    messages = [
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    _, body, _ = await site.chat(messages=messages)
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


async def test_a_model_that_is_still_at_work_gives_comments(site: Site, talker: Talker) -> None:
    talker.says = ["", "", "a"]
    assert [event for event in await site.stream() if isinstance(event, str)] == [": ping", ": ping"]


async def test_comments_do_not_come_more_often_than_wanted(serve: Any, talker: Talker) -> None:
    talker.says = ["", "", "a"]
    site = await serve(ping_every=60)
    assert not [event for event in await site.stream() if isinstance(event, str)]


# -- parameters ------------------------------------------------------------------------------


async def test_parameters_reach_the_model(serve: Any, talker: Talker) -> None:
    site = await serve(timeout=9.0, prefixes=["shop"])
    await site.chat(
        model="shop",
        temperature=0.5,
        top_p=1,
        top_k=3,
        repetition_penalty=1.1,
        seed=-5,
        stop=["END", ""],
        max_tokens=20,
        max_completion_tokens=10,
        user="lin",
        logit_bias={"1": 2},
        tools=[],
    )
    call = talker.calls[0]
    assert call.params == GenerationParams(
        max_new_tokens=10,
        temperature=0.5,
        top_p=1.0,
        top_k=3,
        repetition_penalty=1.1,
        seed=-5,
        stop=("END",),
        prefix="shop",
        timeout=9.0,
    )
    assert call.user.endswith(":lin")


async def test_what_is_not_said_or_null_is_a_default(serve: Any, talker: Talker) -> None:
    site = await serve(max_new_tokens=33)
    nothing = dict.fromkeys(("temperature", "top_p", "n", "seed", "stop", "max_tokens", "stream", "user"))
    for fields in ({}, nothing):
        assert (await site.chat(**fields))[0] == 200
        assert talker.calls.pop().params == GenerationParams(max_new_tokens=33, timeout=TIMEOUT)
    await site.chat(stop="END", max_tokens=10**9, temperature=1e-300)
    params = talker.calls.pop().params
    assert (params.stop, params.max_new_tokens, params.temperature) == (("END",), 33, 0.0)


async def test_a_long_question_leaves_room_for_a_short_answer(site: Site, talker: Talker) -> None:
    """Where the client says nothing; what it says is kept to."""
    question = [{"role": "user", "content": "word " * 2000}]
    assert (await site.chat(messages=question))[0] == 200
    assert talker.calls.pop().params.max_new_tokens == 2048 - 2 - 2000
    await site.chat(messages=question, max_tokens=300)
    assert talker.calls.pop().params.max_new_tokens == 300


@pytest.mark.parametrize(
    "said", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_a_body_that_says_it_is_something_else_is_415(site: Site, said: str) -> None:
    answer = await site.ask("/v1/chat/completions", chat_body(), **{"Content-Type": said})
    assert answer[0] == 415
    assert said in error_of(answer)["message"]


def test_one_wrong_item_of_a_list_is_enough() -> None:
    """A megabyte of them would hold up everybody."""
    chat: tuple[type[Body], dict[str, Any]] = (ChatBody, {"model": "m", "messages": [0] * 99})
    for body, wrong in (chat, (GlmBody, {"prompt": "p", "history": [0] * 99})):
        with pytest.raises(ValidationError) as caught:
            body.model_validate_json(json.dumps(wrong))
        assert caught.value.error_count() == 1


async def test_n_answers_run_side_by_side_with_seeds_of_their_own(site: Site, talker: Talker) -> None:
    talker.usage = Usage(7, 4)
    talker.says = ["a", None, "b"]
    asked = asyncio.create_task(site.chat(n=3, seed=5))
    await until(lambda: talker.open == 3)
    talker.release.set()
    _, body, _ = await asked
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"ab"}
    assert sorted(call.params.seed or 0 for call in talker.calls) == [5, 6, 7]
    assert len({call.user for call in talker.calls}) == 1
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 12, "total_tokens": 19}


async def test_n_answers_share_a_stream(site: Site) -> None:
    events = await site.stream(n=2)
    assert [event["choices"][0]["index"] for event in events[:2]] == [0, 1]
    for index in (0, 1):
        own = [choice for event in events for choice in event["choices"] if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == TEXT
        assert own[-1]["finish_reason"] == "stop"


async def test_n_may_be_more_than_a_user_may_have_at_a_time(site: Site, talker: Talker) -> None:
    talker.of_user = 2
    status, body, _ = await site.chat(n=5)
    assert status == 200
    assert [choice["message"]["content"] for choice in body["choices"]] == [TEXT] * 5


async def test_one_answer_that_fails_ends_the_others(site: Site, talker: Talker) -> None:
    talker.says = ["a", ModelError("the device is gone"), None]
    assert (await site.chat(n=3))[0] == 500
    assert talker.open == 0


# -- talks -----------------------------------------------------------------------------------


async def asked(site: Site, talker: Talker, *messages: tuple[str, Any]) -> tuple[str, tuple[Turn, ...]]:
    status, body, _ = await site.chat(messages=[{"role": role, "content": text} for role, text in messages])
    assert status == 200, body
    call = talker.calls.pop()
    return call.query, call.history


async def test_a_talk_becomes_rounds_and_a_question(site: Site, talker: Talker) -> None:
    talk = [("system", "Be kind."), ("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    assert await asked(site, talker, *talk) == ("q2", (Turn("Be kind.\n\nq1", "a1"),))
    assert await asked(site, talker, ("developer", "Be kind."), ("user", "q")) == ("Be kind.\n\nq", ())


async def test_messages_of_one_role_in_a_row_are_one(site: Site, talker: Talker) -> None:
    talk = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]
    talk += [("system", "s"), ("user", "f")]
    assert await asked(site, talker, *talk) == ("e\nf", (Turn("s\n\na\nb", "c\nd"),))


async def test_an_answer_to_nothing_and_empty_contents_are_fine(site: Site, talker: Talker) -> None:
    assert await asked(site, talker, ("assistant", "hi"), ("user", "q")) == ("q", (Turn("", "hi"),))
    assert await asked(site, talker, ("user", "a"), ("assistant", None), ("user", "")) == (
        "",
        (Turn("a", ""),),
    )


async def test_content_may_be_parts_of_text(site: Site, talker: Talker) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert await asked(site, talker, ("user", parts)) == ("one two", ())


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content"),
        ({"model": None}, "model"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"user": 5}, "user"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, talker: Talker, fields: dict[str, Any], param: str) -> None:
    answer = await site.chat(**fields)
    assert answer[0] == 400
    error = error_of(answer)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"].startswith(f"{param}: ")
    assert talker.calls == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"hi"', b'{"a": NaN}', b"\xff", b'{"model": "\\ud800"}', b"[" * 100_000]
)
async def test_a_body_that_is_no_object_is_an_error(site: Site, body: bytes) -> None:
    answer = await site.ask(PATH, body)
    assert answer[0] == 400
    error_of(answer)


async def test_an_unknown_model_is_404(site: Site) -> None:
    answer = await site.chat(model="gpt-9")
    assert answer[0] == 404
    assert (error_of(answer)["code"], error_of(answer)["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "header"),
    [
        (ModelBusy(2.2, position=4), 429, "model_busy", ("Retry-After", "3")),
        (ModelTimeout(9), 504, "timeout", ("x-should-retry", "false")),
        (
            PromptTooLong("too long", tokens=9, room=5, remedy="shorten it"),
            400,
            "context_length_exceeded",
            None,
        ),
        (ModelError("the device is gone"), 500, "model_error", None),
    ],
)
async def test_refusals_before_any_text_are_statuses_also_of_streams(
    site: Site,
    talker: Talker,
    stream: bool,
    error: Exception,
    status: int,
    code: str,
    header: tuple[str, str] | None,
) -> None:
    talker.says = [error]
    answer = await site.chat(stream=stream)
    assert answer[0] == status
    assert error_of(answer)["code"] == code
    assert header is None or answer[2][header[0]] == header[1]


async def test_a_failure_nobody_foresaw_is_told_by_its_id_only(site: Site, talker: Talker) -> None:
    talker.says = [KeyError("secret detail")]
    with capture_logs() as logs:
        answer = await site.chat()
    assert answer[0] == 500
    assert "secret" not in str(answer[1])
    assert logs[0]["error_id"] in error_of(answer)["message"]


async def test_a_failure_after_the_first_text_is_an_event(site: Site, talker: Talker) -> None:
    talker.says = ["a", ModelError("the device is gone")]
    *_, last = await site.stream()
    assert last == {
        "error": {
            "message": "the device is gone",
            "type": "server_error",
            "param": None,
            "code": "model_error",
        }
    }


async def test_a_model_that_breaks_off_is_an_error(site: Site, talker: Talker) -> None:
    talker.finish = None
    answer = await site.chat()
    assert answer[0] == 500
    assert "broke off" in error_of(answer)["message"]


# -- clients that leave ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_gives_the_answer_up(site: Site, talker: Talker, stream: bool) -> None:
    talker.says = ["a", None]
    await leave(site.client, site.server.url + PATH, talker, stream)


@pytest.mark.parametrize("stream", [False, True])
async def test_in_a_server_that_cancels_nothing_the_next_delta_tells(talker: Talker, stream: bool) -> None:
    talker.says, talker.tick = ["a", None], 0.02
    app = web.Application()
    app.router.add_routes(Faces(talker, ping_every=0).routes())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with capture_logs() as logs:
        async with aiohttp.ClientSession() as client:
            await leave(client, f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}", talker, stream)
        await runner.cleanup()
    assert logs == []


async def leave(client: aiohttp.ClientSession, url: str, talker: Talker, stream: bool) -> None:
    asking = asyncio.create_task(client.post(url, json=chat_body(stream=stream, n=2)))
    await until(lambda: talker.open == 2)
    if stream:
        response = await asking
        await response.content.readany()
        response.close()
    else:
        asking.cancel()
    await until(lambda: talker.open == 0)
    assert talker.given_up == 2
