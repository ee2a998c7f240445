"""GET /v1/models and /v1/models/{id}: the model, its prefixes as models of their own, and the encoder."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from model.http.embeddings import Encoder
from model.http.errors import json_response
from model.http.service import Service, unknown_model


async def list_models(service: Service, encoder: Encoder | None) -> web.StreamResponse:
    """All of them, the model first."""
    return json_response(
        {"object": "list", "data": [_told(service, name) for name in _names(service, encoder)]}
    )


async def show_model(service: Service, encoder: Encoder | None, request: web.Request) -> web.StreamResponse:
    """One of them. Raises ApiError."""
    name = request.match_info["id"]
    if name not in _names(service, encoder):
        raise unknown_model(name)
    return json_response(_told(service, name))


def _names(service: Service, encoder: Encoder | None) -> list[str]:
    return [*service.names, *([encoder.name] if encoder else ())]


def _told(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "glmbot"}
