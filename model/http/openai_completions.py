"""POST /v1/completions: prompts without a talk around them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from model.http.bodies import MOST_CHOICES, CompletionBody
from model.http.errors import ApiError
from model.http.openai_answers import answer, ask
from model.http.service import Caller, Service


class CompletionShape:
    """Choices with a text."""

    prefix = "cmpl"
    whole = "text_completion"
    chunk = "text_completion"

    def opening(self) -> None:
        """A text has no role."""

    def piece(self, text: str | None) -> dict[str, Any]:
        """A piece of the text; the last is empty."""
        return {"text": text or ""}

    def answer(self, text: str) -> dict[str, Any]:
        """The text."""
        return {"text": text}


async def complete(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answer each prompt as the bare question that it is, n times."""
    body = await CompletionBody.read(request)
    if len(body.prompt) * (body.n or 1) > MOST_CHOICES:
        raise ApiError(400, f"n: more than {MOST_CHOICES} answers to all prompts", param="n")
    questions = await ask(service, body, [(prompt, ()) for prompt in body.prompt])
    return await answer(service, request, body, questions, caller, CompletionShape())
