"""ChatGLM in this process as a `ChatModel` that answers many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace

from prometheus_client import CollectorRegistry

from model.answer_text import AnswerText
from model.desk import Job, News
from model.engine import Engine
from model.language_model import LanguageModel
from model.memory import Budget
from model.runner import ChatGLMRunner, Prompt
from model.scheduler import Limits
from model.types import Delta, GenerationParams, ModelError, Turn, Usage
from model.weights import tensor_bytes

SIGN_OF_LIFE = 5.0
"""Seconds after which an empty delta says that a request still waits, or its prompt is still read."""


class BatchedModel:
    """A language model whose answers share the device; users take turns by the tokens they were served."""

    def __init__(
        self,
        model: LanguageModel,
        limits: Limits,
        *,
        max_new_tokens: int = 512,
        sign_of_life: float = SIGN_OF_LIFE,
    ) -> None:
        """limits.pages: of the pool that is made here, those of prefixes not counted."""
        self._model = model
        self._sign_of_life = sign_of_life
        self._max_new_tokens = min(max_new_tokens, model.max_context // 2)  # the rest is for the question
        self._engine = Engine(ChatGLMRunner.of(model, limits.pages), limits)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._model.max_context

    @property
    def kernels(self) -> str:
        """See `model.types.InProcess.kernels`."""
        return self._model.kernels

    @property
    def problem(self) -> str:
        """See `model.types.Fallible`."""
        return self._engine.problem

    @property
    def registry(self) -> CollectorRegistry:
        """What is counted."""
        return self._engine.meters.registry

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has."""
        return self._model.count_tokens(text)

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncGenerator[Delta]:
        """See `model.types.ChatModel.chat`."""
        params = replace(params, max_new_tokens=min(params.max_new_tokens, self._max_new_tokens))
        check_prefix(params.prefix, self._model.prefixes)
        ids = await asyncio.to_thread(self._model.prompt, query, history, params)
        most = min(params.max_new_tokens, self.max_context - len(ids))
        job = self._engine.ask(Prompt(tuple(ids), most, params), user=user, timeout=params.timeout)
        text = AnswerText(self._model.tokenizer, params.stop)
        try:
            while True:
                news = await self._hear(job)
                if isinstance(news, ModelError):
                    raise news
                if isinstance(news, int):
                    more = text.push(news)
                    if not text.stopped:
                        yield Delta(more)
                        continue
                    news = "stop"
                elif news is None:
                    yield Delta("")
                    continue
                else:
                    more = ""
                yield Delta(more + text.end(), news, Usage(len(ids), text.tokens))
                return
        finally:
            self._engine.give_up(job)

    async def close(self) -> None:
        """Stop at the next step; who still waits gets a ModelError."""
        await self._engine.close()
        self._model.close()

    async def _hear(self, job: Job) -> News | None:
        """What comes next; None where nothing does for a while."""
        try:
            async with asyncio.timeout(self._sign_of_life):
                return await job.news.get()
        except TimeoutError:
            return None


def limits_of(model: LanguageModel, *, answering: int, free: int | None, memory: int | None) -> Limits:
    """What a device can take: `memory` bytes, else its share of what is `free` (`Budget.share`).

    free: before the model was loaded. Its prefixes are counted, but not among the pages. Raises ModelError
    where not even one talk as long as the context fits.
    """
    nbytes = tensor_bytes(model.network.weights)
    lengths = tuple(prefix.length for prefix in model.prefixes.values())
    budget = Budget(model.config, nbytes, model.network.dtype, memory, lengths)
    if memory is None and free is not None:
        budget = replace(budget, memory=budget.share(free, model.storage, model.max_context))
    planned = budget.plan(model.storage, model.max_context, answering)
    batch, waiting = min(answering, budget.batch), 2 * answering
    return Limits(planned.pages, answering, batch, waiting=waiting)


def check_prefix(name: str | None, known: Collection[str]) -> None:
    """Raise ModelError for a prefix that was not loaded."""
    if name is not None and name not in known:
        raise ModelError(
            f"there is no prefix {name!r}", remedy=f"known are: {', '.join(sorted(known)) or 'none'}"
        )
