"""What OpenAI's two ways to ask share: parameters in, answers out, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import uuid4

from aiohttp import web

from model.http.answers import Question
from model.http.bodies import Sampling
from model.http.errors import api_error, json_response
from model.http.events import EventStream
from model.http.service import Caller, Run, Service
from model.types import Delta, GenerationParams, Turn, Usage


class Shape(Protocol):
    """How one of the two writes its choices."""

    prefix: str
    """Of ids."""
    whole: str
    """The object's name."""
    chunk: str
    """The name of a streamed piece of it."""

    def opening(self) -> dict[str, Any] | None:
        """The first choice of a stream, or none."""
        ...

    def piece(self, text: str | None) -> dict[str, Any]:
        """A choice of a stream; without text it is the last."""
        ...

    def answer(self, text: str) -> dict[str, Any]:
        """A choice that is whole."""
        ...


async def ask(
    service: Service, body: Sampling, prompts: Sequence[tuple[str, tuple[Turn, ...]]]
) -> list[Question]:
    """The questions of a request: n of each prompt, seeds counted up, so they differ. Raises ApiError."""
    chosen = {
        "temperature": body.heat,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "repetition_penalty": body.repetition_penalty,
    }
    params: dict[str, Any] = {
        "prefix": service.prefix(body.model),
        "stop": tuple(body.stop or ()),
        "timeout": service.timeout,
        **{name: value for name, value in chosen.items() if value is not None},
    }
    seeds = [None if body.seed is None else body.seed + number for number in range(body.n or 1)]
    questions = list[Question]()
    for query, history in prompts:
        most = service.most(body.most) if body.most else await service.most_after(query)
        questions += [Question(query, history, GenerationParams(most, seed=seed, **params)) for seed in seeds]
    return questions


async def answer(
    service: Service,
    request: web.Request,
    body: Sampling,
    questions: Sequence[Question],
    caller: Caller,
    shape: Shape,
) -> web.StreamResponse:
    """Answer, as the body asks for it. Raises ApiError, ModelError and ConnectionError."""
    head = {
        "id": f"{shape.prefix}-{uuid4().hex}",
        "object": shape.chunk if body.stream else shape.whole,
        "created": int(time.time()),
        "model": body.model,
    }
    async with service.run(request, questions, caller, body.user) as run:
        if body.stream:
            return await _stream(run, head, shape, body.usage_wanted, service.ping_every)
        async for _ in run:
            pass
        choices = [
            {"index": index, **shape.answer(answer.text), "logprobs": None, "finish_reason": answer.finish}
            for index, answer in enumerate(run.answers.answers)
        ]
        return json_response({**head, "choices": choices, "usage": usage_body(await run.usage())})


def usage_body(usage: Usage) -> dict[str, int]:
    """Tokens as OpenAI tells them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.answer,
        "total_tokens": usage.prompt + usage.answer,
    }


async def _stream(
    run: Run, head: dict[str, Any], shape: Shape, usage_wanted: bool, ping_every: float
) -> web.StreamResponse:
    """Events; the headers wait for the first delta, so that a refusal can still be an error status."""
    events: EventStream | None = None
    if usage_wanted:
        head = {**head, "usage": None}
    try:
        async for index, delta in run:
            if events is None:
                events = await EventStream.open(run.request, ping_every)
                await _open(events, run, head, shape)
            await _pass_on(events, head, shape, run, index, delta)
        assert events is not None, "a model says at least why it ended"
        usage = await run.usage()
        if usage_wanted:
            await events.send({**head, "choices": [], "usage": usage_body(usage)})
    except ConnectionError:
        if events is None:
            raise
        return events.response
    except Exception as error:
        if events is None:
            raise
        await events.send(api_error(error).body())
    return await events.end()


async def _open(events: EventStream, run: Run, head: dict[str, Any], shape: Shape) -> None:
    opening = shape.opening()
    if opening is not None:
        for index in range(len(run.answers.questions)):
            await events.send({**head, "choices": [_choice(index, opening)]})


async def _pass_on(
    events: EventStream, head: dict[str, Any], shape: Shape, run: Run, index: int, delta: Delta
) -> None:
    if delta.text:
        await events.send({**head, "choices": [_choice(index, shape.piece(delta.text))]})
    elif not delta.finish:
        await events.ping()
    if delta.finish:
        finish = run.answers.answers[index].finish
        await events.send({**head, "choices": [_choice(index, shape.piece(None), finish)]})


def _choice(index: int, content: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish}
