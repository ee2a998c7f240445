"""A model behind any OpenAI-compatible server, as a `ChatModel`."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol

import aiohttp
from pydantic import SecretStr

from model.types import Delta, GenerationParams, ModelBusy, ModelError, Turn

CONNECT_WITHIN = 10.0
SILENCE = 120.0
"""Seconds a server may say nothing before the answer counts as broken off."""
RETRY_AFTER = 5.0
MOST_RETRY_AFTER = 300.0
_MAX_EVENT = 1 << 20
_MAX_ANSWER = 8 << 20
_MAX_REFUSAL = 4096
_WAIT = "look at the server's log, and try again"
_COMPATIBLE = "check that model.base_url is an OpenAI-compatible server's, such as http://127.0.0.1:8000/v1"
_WIDE = re.compile("[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U0001f000-\U0003ffff]")


class Settings(Protocol):
    """What it needs of the model section of config.yaml."""

    @property
    def base_url(self) -> str | None: ...

    @property
    def name(self) -> str | None: ...

    @property
    def api_key(self) -> SecretStr | None: ...

    @property
    def max_context(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...


def create(settings: Settings) -> OpenAIModel:
    """The model of `model.backend: openai`; nothing is asked of the server before the first question."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return OpenAIModel(
        settings.base_url or "",
        settings.name or "",
        api_key=key,
        max_context=settings.max_context,
        max_new_tokens=settings.max_new_tokens,
    )


class OpenAIModel:
    """Streams answers from `BASE_URL/chat/completions`."""

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        api_key: str | None = None,
        max_context: int = 2048,
        max_new_tokens: int = 512,
        silence: float = SILENCE,
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._name = name
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._max_context = max_context
        self._max_new_tokens = min(max_new_tokens, max_context // 2)  # the rest is for the question
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN, sock_read=silence)
        self._client: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._name

    @property
    def max_context(self) -> int:
        """As configured: servers do not tell."""
        return self._max_context

    def count_tokens(self, text: str) -> int:
        """An estimate: one for each CJK character, one for four others."""
        wide = len(_WIDE.findall(text))
        return wide + (len(text) - wide + 3) // 4

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncIterator[Delta]:
        """See `model.types.ChatModel.chat`; `params.prefix` is the name of another model on the server."""
        if self._client is None:
            self._client = aiohttp.ClientSession(timeout=self._timeout)
        body = self._body(query, history, params, user)
        try:
            async with self._client.post(
                self._url, json=body, headers=self._headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                deltas = _streamed(response) if _is_stream(response) else _whole(response)
                async with aclosing(deltas):
                    async for delta in deltas:
                        yield delta
        except TimeoutError as error:
            raise ModelError("the model server does not answer in time", remedy=_WAIT) from error
        except aiohttp.ClientError as error:
            raise ModelError(
                f"the model server cannot be reached: {type(error).__name__}",
                remedy="check that it runs, and model.base_url",
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _body(
        self, query: str, history: Sequence[Turn], params: GenerationParams, user: str
    ) -> dict[str, Any]:
        messages = []
        for turn in history:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": query})
        body: dict[str, Any] = {
            "model": params.prefix or self._name,
            "messages": messages,
            "stream": True,
            "max_tokens": min(params.max_new_tokens, self._max_new_tokens),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "user": hashlib.sha256(user.encode(errors="replace")).hexdigest()[:32],
        }
        if params.seed is not None:
            body["seed"] = params.seed
        if params.stop:
            body["stop"] = list(params.stop)
        if params.top_k:  # no field of OpenAI's own: only sent where it changes something
            body["top_k"] = params.top_k
        if params.repetition_penalty != 1.0:
            body["repetition_penalty"] = params.repetition_penalty
        return body


async def _streamed(response: aiohttp.ClientResponse) -> AsyncGenerator[Delta]:
    """The deltas of a server-sent event stream. Raises ModelError when it ends before the answer does."""
    finish: Literal["stop", "length"] | None = None
    async with aclosing(read_events(response.content.iter_any())) as events:
        async for event in events:
            if event == "[DONE]":
                finish = finish or "stop"
                break
            choice = _choice(event)
            delta = choice.get("delta") or {}
            text = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(text, str) and text:
                yield Delta(text)
            if choice.get("finish_reason"):
                finish = _finish(choice)
    if finish is None:
        raise ModelError("the model server broke off", remedy=_WAIT)
    yield Delta("", finish)


async def _whole(response: aiohttp.ClientResponse) -> AsyncGenerator[Delta]:
    """The one delta of a server that does not stream."""
    raw = await _read(response, _MAX_ANSWER + 1)
    if len(raw) > _MAX_ANSWER:
        raise ModelError(
            f"the model server's answer is longer than {_MAX_ANSWER >> 20} MiB", remedy=_COMPATIBLE
        )
    choice = _choice(raw.decode(errors="replace"))
    message = choice.get("message") or {}
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise ModelError("the model server's answer has no text", remedy=_COMPATIBLE)
    yield Delta(text, _finish(choice))


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or its first `most` bytes."""
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) >= most:
            break
    return bytes(raw[:most])


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The data of server-sent events, however the bytes are cut. Raises ModelError for endless ones."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    lines: list[str] = []
    rest = ""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        rest += decoder.decode(chunk)
        if len(rest) > _MAX_EVENT or total > _MAX_ANSWER:
            raise ModelError("the model server's answer has no end", remedy=_COMPATIBLE)
        # a "\r" at the end may be the first half of "\r\n"
        held = "\r" if rest.endswith("\r") else ""
        *whole, rest = re.split(r"\r\n|\n|\r", rest.removesuffix(held))
        rest += held
        for line in whole:
            if line:
                lines.append(line)
            elif data := _data(lines):
                yield data
                lines = []
            else:
                lines = []
    lines.append(rest.rstrip("\r"))
    if data := _data(lines):
        yield data


def _data(lines: Sequence[str]) -> str:
    """The joined `data:` fields of one event."""
    fields = (line.removeprefix("data:") for line in lines if line.startswith("data:"))
    return "\n".join(field.removeprefix(" ") for field in fields).strip()


def _choice(text: str) -> dict[str, Any]:
    """The first choice of an answer or of a piece of one; {} where a piece has none. Raises ModelError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ModelError("the model server's answer is not JSON", remedy=_COMPATIBLE) from error
    if not isinstance(data, dict):
        raise ModelError("the model server's answer is not an object", remedy=_COMPATIBLE)
    if data.get("error"):
        raise ModelError(f"the model server failed: {_reason(data)}", remedy=_WAIT)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    return choice if isinstance(choice, dict) else {}


def _finish(choice: dict[str, Any]) -> Literal["stop", "length"]:
    return "length" if choice.get("finish_reason") == "length" else "stop"


def _is_stream(response: aiohttp.ClientResponse) -> bool:
    return response.content_type != "application/json"


async def _refusal(response: aiohttp.ClientResponse) -> ModelError:
    """What an HTTP status other than 200 means."""
    if response.status in (429, 503):
        return ModelBusy(_retry_after(response.headers.get("Retry-After", "")))
    if response.status in (401, 403):
        return ModelError(
            f"the model server refuses the API key ({response.status})", remedy="correct model.api_key"
        )
    raw = await _read(response, _MAX_REFUSAL)
    try:
        data = json.loads(raw)
    except ValueError:
        data = None
    reason = _reason(data) if isinstance(data, dict) else ""
    remedy = _WAIT if response.status >= 500 else "check model.base_url, model.name and model.max_context"
    return ModelError(
        f"the model server answers {response.status}{f': {reason}' if reason else ''}", remedy=remedy
    )


def _reason(data: dict[str, Any]) -> str:
    error = data.get("error")
    message = error.get("message") if isinstance(error, dict) else error or data.get("message")
    return " ".join(str(message or "no reason given").split())[:200]


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header, a number or a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            seconds = RETRY_AFTER
    return min(max(seconds, 1.0), MOST_RETRY_AFTER) if seconds == seconds else RETRY_AFTER
