"""POST / as in api.py of THUDM/ChatGLM-6B, field by field."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web

from model.http.answers import Question
from model.http.bodies import GlmBody
from model.http.errors import json_response
from model.http.service import SPECIALS, Caller, Service
from model.prompt import format_chat
from model.types import GenerationParams, Turn

MAX_LENGTH = 2048
"""Of prompt and answer together, in tokens: the default there."""
TOP_P = 0.7


async def chat(service: Service, request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answer a prompt after its history, which comes back with the new round."""
    body = await GlmBody.read(request)
    history = [(question, answer) for question, answer in body.history or ()]
    # transformers' max_length, which is what it is there, counts the prompt
    prompt = SPECIALS + await service.count([format_chat(body.prompt, history)])
    params = GenerationParams(
        max_new_tokens=service.most(max((body.max_length or MAX_LENGTH) - prompt, 1)),
        temperature=body.heat,
        top_p=body.top_p or TOP_P,
        timeout=service.timeout,
    )
    question = Question(body.prompt, tuple(Turn(*turn) for turn in history), params)
    async with service.run(request, [question], caller) as run:
        async for _ in run:
            pass
        await run.usage()
    response = run.answers.answers[0].text
    return json_response(
        {
            "response": response,
            "history": [*history, (body.prompt, response)],
            "status": 200,
            "time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
