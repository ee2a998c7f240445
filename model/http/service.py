"""What all faces ask of: one model under its names, whose callers are known and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from model.http.answers import Answers, Line, Question
from model.http.errors import NO_RETRY, ApiError, too_many
from model.http.events import gone
from model.http.keys import Key
from model.http.limits import Limits
from model.prompt import format_chat
from model.types import ChatModel, Delta, ModelError, Turn, Usage

SPECIALS = 2
"""Ids that the model's own format adds to a prompt."""
RETRY_AFTER = 2.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    key: Key | None
    address: str

    @property
    def name(self) -> str:
        """Of the key; without keys that of the connection."""
        return self.key.name if self.key else self.address


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

    async def tokens(self) -> int:
        """What the request is charged: once text has come, its prompt was read, whether it ended or not."""
        if self.used is None and self.answers.pieces:
            with suppress(ModelError):
                await self.usage()
        return self.answers.pieces if self.used is None else self.used.prompt + self.used.answer


class Service:
    """The model behind its names; see `Faces` for the parameters."""

    def __init__(
        self,
        model: ChatModel | None,
        *,
        name: str,
        prefixes: Collection[str],
        max_new_tokens: int,
        timeout: float | None,
        ping_every: float,
        max_per_key: int | None,
    ) -> None:
        self.names = [name, *sorted(prefixes)] if model is not None else []
        """What clients may ask for; none where there is no model to talk with."""
        self.timeout = timeout
        self.ping_every = ping_every
        self.created = int(time.time())
        self.limits = Limits()
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._max_per_key = max_per_key
        self._lines: dict[str, Line] = {}

    @property
    def model(self) -> ChatModel:
        """The language model. Raises ApiError where there is none."""
        if self._model is None:
            raise ApiError(404, "there is no language model here", code="no_model", headers=NO_RETRY)
        return self._model

    def prefix(self, model: str) -> str | None:
        """The P-Tuning prefix that is asked for by the name of a model, or none. Raises ApiError."""
        if self.model and model not in self.names:
            raise unknown_model(model)
        return None if model == self.names[0] else model

    def most(self, asked: int | None) -> int:
        """Tokens of an answer at most; a model would cut what is more."""
        return min(asked or self._max_new_tokens, self._max_new_tokens, self.model.max_context)

    async def most_after(self, query: str) -> int:
        """Tokens of an answer where a client does not say: fewer than usual after a long question."""
        room = self.model.max_context - SPECIALS
        if len(query.encode("utf-8", "replace")) <= room - self._max_new_tokens:
            return self._max_new_tokens  # no token is less than a byte
        return max(min(self._max_new_tokens, room - await self.count([query])), 1)

    async def count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts, counted on a thread; characters where there is no model that could say."""
        return await asyncio.to_thread(self._count, texts)

    def _count(self, texts: Sequence[str]) -> int:
        try:
            count = len if self._model is None else self._model.count_tokens
            return sum(map(count, texts))
        except ModelError:  # it is still being loaded
            return sum(map(len, texts))

    @asynccontextmanager
    async def run(
        self, request: web.Request, questions: Sequence[Question], caller: Caller, end_user: str | None = None
    ) -> AsyncIterator[Run]:
        """Answers while the block lasts, charged to the caller's key. Raises ApiError for a limit.

        end_user: whom the caller asks for. It takes turns of its own, unless keys have a share each.
        """
        charge = self.limits.reserve(caller.key, await self._worst(caller, questions))
        by_key = self._max_per_key is not None and caller.key is not None
        user = f"{caller.name}:{end_user}" if end_user and not by_key else caller.name
        with self._in_line(user) as line:
            answers = Answers(self.model, questions, user, line)
            async with aclosing(answers.deltas()) as deltas:
                run = Run(answers, deltas, request)
                try:
                    yield run
                finally:
                    charge.settle(await run.tokens())

    async def _worst(self, caller: Caller, questions: Sequence[Question]) -> int:
        """The tokens that a request can come to, where its key has a limit."""
        if caller.key is None or caller.key.tokens_per_minute is None:
            return 0
        texts = {(question.query, question.history) for question in questions}
        prompts = await self.count([format_chat(query, _pairs(history)) for query, history in texts])
        return prompts + sum(question.params.max_new_tokens for question in questions)

    @contextmanager
    def _in_line(self, user: str) -> Iterator[Line]:
        """With the user's other requests, which a model need not take all at once. Raises ApiError."""
        line = self._lines.setdefault(user, Line())
        if self._max_per_key is not None and line.requests >= self._max_per_key:
            message = f"this key has {line.requests} requests at work already"
            raise too_many(message, RETRY_AFTER, kind="server_error", code="model_busy")
        line.requests += 1
        try:
            yield line
        finally:
            line.requests -= 1
            if not line.requests:
                del self._lines[user]


def _pairs(history: Sequence[Turn]) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in history]


def unknown_model(name: str) -> ApiError:
    """404, as OpenAI says it."""
    message = f"the model {name!r} does not exist"
    return ApiError(404, message, param="model", code="model_not_found")
