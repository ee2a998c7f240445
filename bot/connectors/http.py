"""What connectors that speak HTTP share: bodies read within bounds, JSON objects, refusals, reasons."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import aiohttp
from aiohttp import web

READ_WITHIN = 30.0


class Refused(web.HTTPException):
    """A request answered by `{"error": problem}`, with the `field` that is wrong where there is one."""

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status_code = status
        headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        error = {"error": problem} if field is None else {"error": problem, "field": field}
        super().__init__(text=json.dumps(error), content_type="application/json", headers=headers)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The raw body. Raises Refused: 413 over `limit` bytes (before reading where announced), 408, 400."""
    if (request.content_length or 0) > limit:
        raise Refused(413, f"the body may have {limit} bytes at most")
    try:
        async with asyncio.timeout(READ_WITHIN):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refused(413, f"the body may have {limit} bytes at most") from None
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {READ_WITHIN:g} s") from None
    except web.RequestPayloadError:
        raise Refused(400, "the body is incomplete") from None
    if len(body) > limit:
        raise Refused(413, f"the body may have {limit} bytes at most")
    return body


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises Refused (400)."""
    try:
        value = json.loads(body.decode())
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object")
    return value


def json_response(value: object, *, status: int = 200) -> web.Response:
    """A JSON answer, characters as they are."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def reason(error: Exception) -> str:
    """Why a request of ours failed, without its URL, which may hold a secret."""
    if isinstance(error, aiohttp.ServerTimeoutError):
        return "no connection in time"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__} ({error.strerror})"
    return type(error).__name__
