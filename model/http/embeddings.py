"""POST /v1/embeddings: vectors by the encoder that the server was handed."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from aiohttp import web

from model.http.bodies import EmbeddingBody
from model.http.errors import ApiError, json_text, too_many
from model.http.events import gone
from model.http.service import Caller, Service, unknown_model

TOGETHER = 64
"""Texts that are encoded at once; in between, the thread looks if somebody still waits."""
MOST_WAITING = 8
"""Requests for embeddings, the one at work included."""
RETRY_AFTER = 5.0
"""Seconds."""
LOOK_EVERY = 0.5


class Encoder(Protocol):
    """Turns texts into vectors, float32 [n, dim]; called from several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


class Embedder:
    """An encoder on a thread of its own: long lists hold up neither the event loop nor those who talk."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._thread = ThreadPoolExecutor(1, "embeddings")
        self._requests = 0

    async def encode(self, request: web.Request, texts: Sequence[str], form: str | None) -> str:
        """JSON of one object for each text. Raises ApiError, and ConnectionError when the client has left."""
        if self._requests >= MOST_WAITING:
            message = "too many texts wait for the encoder"
            raise too_many(message, RETRY_AFTER, kind="server_error", code="model_busy")
        given_up = threading.Event()
        self._requests += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(
                self._thread, self._encode, texts, form, given_up
            )
            while not (await asyncio.wait({work}, timeout=LOOK_EVERY))[0]:
                if gone(request):
                    raise ConnectionResetError("the client left")
            return work.result()
        finally:
            given_up.set()
            self._requests -= 1

    def _encode(self, texts: Sequence[str], form: str | None, given_up: threading.Event) -> str:
        """On the thread; ends early where nobody waits any more."""
        data = list[str]()
        for start in range(0, len(texts), TOGETHER):
            if given_up.is_set():
                break
            for vector in self.encoder.encode(texts[start : start + TOGETHER]):
                one = {"object": "embedding", "index": len(data), "embedding": _written(vector, form)}
                data.append(json_text(one))
        return ",".join(data)


async def embed(
    service: Service, embedder: Embedder | None, request: web.Request, caller: Caller
) -> web.StreamResponse:
    """Vectors in the order of the texts; the chat model's name stands for the encoder's, too."""
    body = await EmbeddingBody.read(request)
    if embedder is None:
        raise ApiError(404, "this server has no encoder for embeddings", code="no_encoder")
    encoder = embedder.encoder
    if body.model not in (encoder.name, *service.names):
        raise unknown_model(body.model)
    if body.dimensions not in (None, encoder.dim):
        message = f"dimensions: this encoder has {encoder.dim}"
        raise ApiError(400, message, param="dimensions", code="unsupported_value")
    tokens = await service.count(body.input)
    service.limits.reserve(caller.key, tokens).settle(tokens)
    data = await embedder.encode(request, body.input, body.encoding_format)
    rest = {"model": body.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    text = f'{{"object":"list","data":[{data}],{json_text(rest)[1:]}'
    return web.Response(body=text.encode("utf-8", "replace"), content_type="application/json")


def _written(vector: npt.NDArray[np.float32], form: str | None) -> Any:
    """Numbers, or what OpenAI's Python client asks for: little-endian float32 in base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
