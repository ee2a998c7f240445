"""What goes wrong, as HTTP statuses and the error bodies of OpenAI's API."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web
from pydantic import ValidationError

from model.types import ModelBusy, ModelError, ModelTimeout, PromptTooLong

log = structlog.get_logger(__name__)
NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's client would ask twice more."""


class ApiError(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """{"error": ...} as OpenAI's clients read it."""
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> web.Response:
        """The error as a whole response."""
        return json_response(self.body(), self.status, self.headers)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A compact JSON body, as ChatGLM-6B's own server writes it."""
    return web.Response(
        body=json_text(value).encode("utf-8", "replace"),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def json_text(value: object) -> str:
    """JSON without blanks, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def api_error(error: Exception) -> ApiError:
    """The error that a client is told; what was not foreseen goes to the log, and the client gets its id."""
    match error:
        case ApiError():
            return error
        case ValidationError():
            return _invalid(error)
        case PromptTooLong():
            message = f"the prompt has {error.tokens} tokens, and {error.room} have room beside max_tokens"
            return ApiError(400, message, code="context_length_exceeded")
        case ModelBusy():
            return too_many(str(error), error.retry_after, kind="server_error", code="model_busy")
        case ModelTimeout():
            return ApiError(504, str(error), kind="server_error", code="timeout", headers=NO_RETRY)
        case ModelError():
            return ApiError(500, error.problem, kind="server_error", code="model_error")
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, "the body is too large", code="request_too_large")
        case web.HTTPException():
            allow = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return ApiError(error.status, error.reason, headers=allow)
        case ConnectionError() | web.RequestPayloadError():
            return ApiError(400, "the client left")  # nobody hears it
    error_id = uuid4().hex[:16]
    log.error("request failed", error_id=error_id, exc_info=error)
    return ApiError(500, f"internal error {error_id}", kind="server_error", code="internal_error")


def too_many(message: str, seconds: float, *, kind: str, code: str) -> ApiError:
    """429, to be tried again in so many seconds."""
    return ApiError(
        429, message, kind=kind, code=code, headers={"Retry-After": str(max(math.ceil(seconds), 1))}
    )


def _invalid(error: ValidationError) -> ApiError:
    """400 that names the first parameter at fault."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ".".join(map(str, first["loc"])) or None
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return ApiError(400, message, param=param, code=first["type"])
