"""POST /v1/embeddings: vectors by the encoder that the server was handed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from aiohttp import web

from model.http.bodies import EmbeddingBody
from model.http.errors import ApiError, json_response
from model.http.service import Caller, Service, unknown_model


class Encoder(Protocol):
    """Turns texts into vectors, float32 [n, dim]; called from several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


async def embed(
    service: Service, encoder: Encoder | None, request: web.Request, caller: Caller
) -> web.StreamResponse:
    """Vectors in the order of the texts; the chat model's name stands for the encoder's, too."""
    body = await EmbeddingBody.read(request)
    if encoder is None:
        raise ApiError(404, "this server has no encoder for embeddings", code="no_encoder")
    if body.model not in (encoder.name, service.name, *service.prefixes):
        raise unknown_model(body.model)
    if body.dimensions not in (None, encoder.dim):
        message = f"dimensions: this encoder has {encoder.dim}"
        raise ApiError(400, message, param="dimensions", code="unsupported_value")
    tokens = await service.count(body.input)
    service.limits.reserve(caller.key, tokens).settle(tokens)
    vectors = await asyncio.to_thread(encoder.encode, body.input)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": body.model, "usage": usage})


def _written(vector: npt.NDArray[np.float32], form: str | None) -> Any:
    """Numbers, or what OpenAI's Python client asks for: little-endian float32 in base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
