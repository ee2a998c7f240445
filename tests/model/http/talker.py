"""A model that says what it is told, and somebody who asks its server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt

from model.http.server import ModelServer
from model.types import Delta, GenerationParams, ModelBusy, Turn, Usage


@dataclass(frozen=True)
class Call:
    query: str
    history: tuple[Turn, ...]
    params: GenerationParams
    user: str


class Talker:
    """Says the same to everybody: texts; None waits for `release`; errors are raised."""

    name = "fake-glm"
    max_context = 2048
    problem = ""

    def __init__(self) -> None:
        self.says: list[str | Exception | None] = ["Hello", ", ", "世界🌏"]
        self.finish: Any = "stop"
        self.usage: Usage | None = None
        self.of_user = 100
        self.calls: list[Call] = []
        self.open = 0
        self.given_up = 0
        self.closed = False
        self.release = asyncio.Event()
        self.tick: float | None = None
        """Seconds between empty deltas while it waits, if any."""

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncIterator[Delta]:
        if self.open >= self.of_user:
            raise ModelBusy(2.5, position=3)
        self.calls.append(Call(query, tuple(history), params, user))
        self.open += 1
        try:
            for item in self.says:
                if isinstance(item, Exception):
                    raise item
                while item is None and not self.release.is_set():
                    try:
                        async with asyncio.timeout(self.tick):
                            await self.release.wait()
                    except TimeoutError:
                        yield Delta("")
                if item is not None:
                    yield Delta(item)
                    await asyncio.sleep(0)
            yield Delta("", self.finish, self.usage)
        except (asyncio.CancelledError, GeneratorExit):
            self.given_up += 1
            raise
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed = True


class Lengths:
    """Turns a text into its length."""

    name = "lengths"
    dim = 3

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.encoded = 0
        self.held = threading.Event()
        """Once it is cleared, the encoder waits until it is set again."""
        self.held.set()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.threads.add(threading.current_thread().name)
        self.encoded += len(texts)
        self.held.wait(10)
        return np.array([[len(text), 0.1, -1] for text in texts], np.float32)


@dataclass
class Site:
    """A server and somebody who asks it."""

    server: ModelServer
    client: aiohttp.ClientSession

    async def ask(
        self, path: str, body: Any = None, *, key: str | None = None, method: str | None = None, **more: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of an answer; a body is posted."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if isinstance(body, dict):
            body = json.dumps(body)
        async with self.client.request(
            method or ("GET" if body is None else "POST"),
            self.server.url + path,
            data=body,
            headers={"Content-Type": "application/json", **headers, **more},
        ) as response:
            return response.status, await response.json(), dict(response.headers)

    async def chat(self, key: str | None = None, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        return await self.ask("/v1/chat/completions", chat_body(**fields), key=key)

    async def raw(self, path: str, body: dict[str, Any]) -> bytes:
        async with self.client.post(self.server.url + path, json=body) as response:
            assert response.status == 200
            return await response.read()

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
        """The events of a stream, the last one left out."""
        body = chat_body(**fields) if path.endswith("chat/completions") else {"model": "fake-glm", **fields}
        raw = await self.raw(path, {**body, "stream": True})
        *events, done, rest = raw.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [
            json.loads(event.removeprefix("data: ")) if event.startswith("data: ") else event
            for event in events
        ]


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "fake-glm", "messages": [{"role": "user", "content": "hi there"}], **fields}


def error_of(answer: tuple[int, Any, dict[str, str]]) -> dict[str, Any]:
    """The error that an answer tells, whose shape is OpenAI's."""
    _, body, _ = answer
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - a server gets there
            await asyncio.sleep(0.002)
