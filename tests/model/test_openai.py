"""A compatible server as a ChatModel: what is sent, how streams are read, and what failures become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from model.openai import OpenAIModel, create, read_events
from model.types import ChatModel, Delta, GenerationParams, ModelBusy, ModelError, Turn

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[OpenAIModel]]


@dataclass
class Settings:
    base_url: str | None
    name: str | None = "glm"
    api_key: SecretStr | None = None
    max_context: int = 1024
    max_new_tokens: int = 512


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []
    models: list[OpenAIModel] = []

    async def start(handler: Handler, **options: Any) -> OpenAIModel:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        url = str(server.make_url("/v1/"))
        models.append(OpenAIModel(url, "glm", api_key="sk-secret", **options))
        return models[-1]

    yield start
    for model in models:
        await model.close()
    for server in servers:
        await server.close()


def piece(text: str | None, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


def stream(*events: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {event}\n\n".encode())
        return response

    return handle


def answer(status: int, body: Any, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, text=json.dumps(body), content_type="application/json", headers=headers
        )

    return handle


async def said(model: OpenAIModel, query: str = "hi", **changes: Any) -> list[Delta]:
    params = GenerationParams(**changes)
    return [delta async for delta in model.chat(query, [Turn("q", "a")], params, user="secret user")]


async def failure(model: OpenAIModel) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await said(model)
    assert "sk-secret" not in str(caught.value)
    return caught.value


# -- answers ---------------------------------------------------------------------------------


async def test_a_stream_arrives_piece_by_piece(serve: Serve) -> None:
    usage = json.dumps({"choices": [], "usage": {"total_tokens": 9}})
    model = await serve(stream(piece(None), piece("你"), piece("好"), piece("", "length"), usage, "[DONE]"))
    assert isinstance(model, ChatModel)
    assert await said(model) == [Delta("你"), Delta("好"), Delta("", "length")]


async def test_the_request_is_what_compatible_servers_expect(serve: Serve) -> None:
    seen: list[tuple[dict[str, Any], str]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json(), request.headers["Authorization"]))
        return await stream(piece("ok", "stop"))(request)

    model = await serve(handle)
    await said(model, "now", seed=3, stop=("END",), max_new_tokens=9_000)
    await said(model, top_k=5, repetition_penalty=1.1)
    (first, key), (second, _) = seen
    assert key == "Bearer sk-secret"
    assert first["model"] == "glm"
    assert first["stream"] is True
    assert first["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "now"},
    ]
    assert (first["max_tokens"], first["seed"], first["stop"]) == (512, 3, ["END"])
    assert "top_k" not in first
    assert "repetition_penalty" not in first
    assert "secret user" not in json.dumps(first)
    assert (second["top_k"], second["repetition_penalty"]) == (5, 1.1)


async def test_a_server_that_does_not_stream_is_understood(serve: Serve) -> None:
    body = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    assert await said(await serve(answer(200, body))) == [Delta("whole", "stop")]


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end(serve: Serve) -> None:
    body = json.dumps({"choices": [{"message": {"content": "你好" * 50}, "finish_reason": "stop"}]}).encode()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(body[:61])
        await asyncio.sleep(0.1)
        await response.write(body[61:])
        return response

    assert await said(await serve(handle)) == [Delta("你好" * 50, "stop")]


async def test_an_answer_leaves_the_question_half_of_the_context(serve: Serve) -> None:
    asked: list[int] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json())["max_tokens"])
        return await stream(piece("ok", "stop"))(request)

    await said(await serve(handle, max_context=1024, max_new_tokens=1000), max_new_tokens=1000)
    assert asked == [512]


async def test_giving_up_closes_the_request(serve: Serve) -> None:
    gone = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await stream(piece("first"))(request)
        try:
            while True:
                await response.write(b": still here\n\n")
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    model = await serve(handle)
    deltas = model.chat("hi", [], GenerationParams(), user="u")
    assert await anext(deltas) == Delta("first")
    await deltas.aclose()
    async with asyncio.timeout(5):
        await gone.wait()


def test_it_is_made_from_the_configuration() -> None:
    model = create(Settings("http://127.0.0.1:1/v1", api_key=SecretStr("k")))
    assert (model.name, model.max_context) == ("glm", 1024)
    assert model.count_tokens("你好，world!") == 5
    assert model.count_tokens("") == 0


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "header", "wait"),
    [
        (429, "7", 7.0),
        (503, "", 5.0),
        (429, "1e9", 300.0),
        (503, "nan", 5.0),
        (429, "Thu, 01 Jan 1970 00:00:00 GMT", 1.0),
    ],
)
async def test_a_full_server_is_busy(serve: Serve, status: int, header: str, wait: float) -> None:
    error = await failure(await serve(answer(status, {}, **{"Retry-After": header})))
    assert isinstance(error, ModelBusy)
    assert error.retry_after == wait


@pytest.mark.parametrize(
    ("handler", "problem", "remedy"),
    [
        (answer(401, {"error": {"message": "bad key sk-secret"}}), "refuses the API key", "model.api_key"),
        (answer(400, {"error": {"message": "too\nlong"}}), "answers 400: too long", "model.max_context"),
        (answer(500, ["?"]), "answers 500", "log"),
        (answer(302, {}, Location="http://elsewhere/"), "answers 302", "model.base_url"),
        (answer(200, {"choices": []}), "no text", "model.base_url"),
        (answer(200, {"error": "overheated"}), "overheated", "log"),
        (stream(piece("half")), "broke off", "log"),
        (stream(piece("half"), "{"), "not JSON", "model.base_url"),
        (stream(piece("half"), json.dumps({"error": {"message": "out of memory"}})), "out of memory", "log"),
        (stream("[1]"), "not an object", "model.base_url"),
        (stream(piece("x" * (1 << 20))), "no end", "model.base_url"),
        (answer(200, "x" * (8 << 20)), "longer than 8 MiB", "model.base_url"),
    ],
)
async def test_failures_become_model_errors_with_a_remedy(
    serve: Serve, handler: Handler, problem: str, remedy: str
) -> None:
    error = await failure(await serve(handler))
    assert not isinstance(error, ModelBusy)
    assert problem in error.problem
    assert remedy in (error.remedy or "")


async def test_a_server_that_falls_silent_is_given_up(serve: Serve) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await stream(piece("first"))(request)
        await asyncio.sleep(30)
        return response

    error = await failure(await serve(handle, silence=0.5))
    assert "in time" in error.problem
    assert error.remedy


async def test_a_server_that_is_not_there_is_an_error(unused_tcp_port: int) -> None:
    model = OpenAIModel(f"http://127.0.0.1:{unused_tcp_port}/v1", "glm")
    error = await failure(model)
    assert "cannot be reached" in error.problem
    assert "model.base_url" in (error.remedy or "")
    await model.close()


# -- server-sent events ----------------------------------------------------------------------

LINE = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=12)


@given(
    st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_events_survive_any_cutting(events: list[list[str]], end: str, sizes: list[int]) -> None:
    text = "".join(f": note{end}" + "".join(f"data: {line}{end}" for line in e) + end for e in events)

    async def chunks() -> AsyncIterator[bytes]:
        raw, turn = text.encode(), 0
        while raw:
            size = sizes[turn % len(sizes)]
            yield raw[:size]
            raw, turn = raw[size:], turn + 1

    async def read() -> list[str]:
        return [event async for event in read_events(chunks())]

    joined = ["\n".join(lines).strip() for lines in events]
    assert asyncio.run(read()) == [event for event in joined if event]
