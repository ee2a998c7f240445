"""All routes over one model, behind one door: keys, limits, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from model.http import TIMEOUT, chatglm_api, openai_chat, openai_completions, openai_models
from model.http.embeddings import Embedder, Encoder, embed
from model.http.errors import ApiError, api_error
from model.http.keys import Key, Keys
from model.http.service import Caller, Service
from model.types import ChatModel, Fallible, GenerationParams

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]


class Faces:
    """What a server mounts: `routes()`."""

    def __init__(
        self,
        model: ChatModel | None,
        *,
        keys: Keys | None = None,
        encoder: Encoder | None = None,
        name: str | None = None,
        prefixes: Collection[str] = (),
        max_new_tokens: int = GenerationParams().max_new_tokens,
        timeout: float | None = TIMEOUT,
        ping_every: float = 1.0,
        max_per_key: int | None = None,
    ) -> None:
        """model: None where there is only an encoder. name: under which clients know the model, by default
        its own; prefixes: further names. max_new_tokens: of an answer at most. timeout: seconds for an
        answer. ping_every: seconds without text after which an empty delta becomes a comment. max_per_key:
        requests of a key that may be at work; where it is given a key is one user of the model, whoever it
        asks for.
        """
        self.keys = keys or Keys()
        self._model = model
        self._embedder = None if encoder is None else Embedder(encoder)
        self._service = Service(
            model,
            name=name or (model.name if model else ""),
            prefixes=prefixes,
            max_new_tokens=max_new_tokens,
            timeout=timeout,
            ping_every=ping_every,
            max_per_key=max_per_key,
        )

    def routes(self, chatglm: str = "/") -> list[web.RouteDef]:
        """Paths from the root of the server; nothing has to be set up or closed. chatglm: that of api.py."""
        service, embedder = self._service, self._embedder
        encoder = embedder.encoder if embedder else None

        async def list_models(request: web.Request, caller: Caller) -> web.StreamResponse:
            return await openai_models.list_models(service, encoder)

        async def show_model(request: web.Request, caller: Caller) -> web.StreamResponse:
            return await openai_models.show_model(service, encoder, request)

        return [
            web.post("/v1/chat/completions", self._guarded(partial(openai_chat.chat, service))),
            web.post("/v1/completions", self._guarded(partial(openai_completions.complete, service))),
            web.post("/v1/embeddings", self._guarded(partial(embed, service, embedder))),
            web.get("/v1/models", self._guarded(list_models)),
            web.get("/v1/models/{id:.+}", self._guarded(show_model)),
            web.post(chatglm, self._guarded(partial(chatglm_api.chat, service))),
        ]

    @property
    def problem(self) -> str:
        """Why the model will not answer any more, if it knows."""
        return self._model.problem if isinstance(self._model, Fallible) else ""

    def admit(self, request: web.Request) -> Key | None:
        """The key that a request brings, None where none is needed. Raises ApiError."""
        if not self.keys.required:
            # A page in a browser on this machine reaches loopback, too, whoever wrote it.
            if "Origin" in request.headers:
                raise ApiError(403, "pages in browsers need an API key here", code="key_required")
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("an API key is needed: Authorization: Bearer KEY")
        key = self.keys.find(token)
        if key is None:
            raise _unauthorized("this API key is wrong or was revoked")
        return key

    def _guarded(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                caller = Caller(self.admit(request), _address(request))
                if request.method == "POST":
                    self._service.limits.admit(caller.key)
                return await handler(request, caller)
            except Exception as error:
                return api_error(error).response()

        return handle


def mount(
    model: ChatModel | None, *, api_keys: Sequence[str] = (), keys_file: Path | None = None, **options: Any
) -> list[web.RouteDef]:
    """The routes for a server that does more than this and may listen anywhere: always with a key.

    The entry point of the group glmbot.faces; the options are those of `Faces`. Raises ModelError.
    """
    routes = Faces(model, keys=Keys(api_keys, keys_file, required=True), **options).routes("/chatglm")
    methods = {route.path: route.method for route in routes}

    async def nowhere(request: web.Request) -> web.StreamResponse:
        """What the other server would answer in its own way."""
        allowed = methods.get(request.path)
        headers = {"Allow": allowed} if allowed else {}
        message = f"there is no {request.method} {request.path}"
        return ApiError(405 if allowed else 404, message, code="not_found", headers=headers).response()

    return [*routes, web.route("*", "/v1/{rest:.*}", nowhere)]


def _unauthorized(message: str) -> ApiError:
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)


def _address(request: web.Request) -> str:
    """Of the connection, its port included: those who need no key are strangers to each other."""
    peer = request.transport and request.transport.get_extra_info("peername")
    return f"{peer[0]}#{peer[1]}" if isinstance(peer, tuple) else "local"
