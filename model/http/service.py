"""What all faces ask of: one model under its names, whose callers are known and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from model.http.answers import Answers, Question
from model.http.errors import ApiError
from model.http.events import gone
from model.http.keys import Key
from model.http.limits import Limits
from model.types import ChatModel, Delta, Usage


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    key: Key | None
    address: str

    def user(self, end_user: str | None = None) -> str:
        """Whose turn it is: the key's, or the end user's whom it tells; without keys the connection's."""
        name = self.key.name if self.key else self.address
        return f"{name}:{end_user}" if end_user else name


@dataclass(slots=True)
class Run:
    """A request at work: its answers, and what they have used so far."""

    answers: Answers
    deltas: AsyncGenerator[tuple[int, Delta]]
    request: web.Request
    used: Usage | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        """(index of the question, delta). Raises ModelError, and ConnectionError when the client has left."""
        item = await anext(self.deltas)
        if gone(self.request):
            raise ConnectionResetError("the client left")
        return item

    async def usage(self) -> Usage:
        """Tokens, after the last delta."""
        self.used = await self.answers.usage()
        return self.used

    @property
    def tokens(self) -> int:
        """What the request is charged."""
        return self.answers.pieces if self.used is None else self.used.prompt + self.used.answer


class Service:
    """The model behind its names; see `Faces` for the parameters."""

    def __init__(
        self,
        model: ChatModel,
        *,
        name: str,
        prefixes: Collection[str],
        max_new_tokens: int,
        timeout: float | None,
        ping_every: float,
    ) -> None:
        self.model = model
        self.name = name
        self.prefixes = sorted(prefixes)
        self.timeout = timeout
        self.ping_every = ping_every
        self.created = int(time.time())
        self.limits = Limits()
        self._max_new_tokens = max_new_tokens

    def prefix(self, model: str) -> str | None:
        """The P-Tuning prefix that is asked for by the name of a model, or none. Raises ApiError."""
        if model == self.name:
            return None
        if model in self.prefixes:
            return model
        raise unknown_model(model)

    def most(self, asked: int | None) -> int:
        """Tokens of an answer at most."""
        return min(asked or self._max_new_tokens, self.model.max_context)

    async def count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts, counted on a thread."""
        return await asyncio.to_thread(lambda: sum(map(self.model.count_tokens, texts)))

    @asynccontextmanager
    async def run(
        self, request: web.Request, questions: Sequence[Question], caller: Caller, end_user: str | None = None
    ) -> AsyncIterator[Run]:
        """Answers while the block lasts, charged to the caller's key. Raises ApiError for a limit."""
        most = sum(question.params.max_new_tokens for question in questions)
        charge = self.limits.reserve(caller.key, most)
        answers = Answers(self.model, questions, caller.user(end_user))
        async with aclosing(answers.deltas()) as deltas:
            run = Run(answers, deltas, request)
            try:
                yield run
            finally:
                charge.settle(run.tokens)


def unknown_model(name: str) -> ApiError:
    """404, as OpenAI says it."""
    message = f"the model {name!r} does not exist"
    return ApiError(404, message, param="model", code="model_not_found")
