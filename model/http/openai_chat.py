"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from model.http.bodies import ChatBody
from model.http.conversation import read_messages
from model.http.openai_answers import answer, ask
from model.http.service import Caller, Service


class ChatShape:
    """Choices with a message."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def opening(self) -> dict[str, Any]:
        """Who speaks."""
        return {"delta": {"role": "assistant", "content": ""}}

    def piece(self, text: str | None) -> dict[str, Any]:
        """A piece of the message; the last is empty."""
        return {"delta": {} if text is None else {"content": text}}

    def answer(self, text: str) -> dict[str, Any]:
        """The message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}


async def chat(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answer the last message of a talk."""
    body = await ChatBody.read(request)
    questions = await ask(service, body, [read_messages(body.messages)])
    return await answer(service, request, body, questions, caller, ChatShape())
