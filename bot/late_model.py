"""The bot's model for who has to have one before it is loaded: the HTTP server listens from the start."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from bot.config import ModelSettings
from model.types import ChatModel, Delta, GenerationParams, ModelBusy, ModelError, Turn

LOADING = 10.0
"""Seconds after which to ask again while a model loads."""


class LateModel:
    """Busy until `arrive` is called; after that the model, or none."""

    def __init__(self, name: str, max_context: int) -> None:
        self.name = name
        self._max_context = max_context
        self._model: ChatModel | None = None
        self._loading = True

    def arrive(self, model: ChatModel | None) -> None:
        """It was loaded, or could not be."""
        self._model, self._loading = model, False

    @property
    def max_context(self) -> int:
        """See `ChatModel`, like all below."""
        return self._max_context if self._model is None else self._model.max_context

    def count_tokens(self, text: str) -> int:
        return self._there().count_tokens(text)

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncGenerator[Delta]:
        async with aclosing(_closable(self._there(), query, history, params, user)) as deltas:
            async for delta in deltas:
                yield delta

    async def close(self) -> None:
        """Its owner closes the model."""

    def _there(self) -> ChatModel:
        if self._model is not None:
            return self._model
        if self._loading:
            raise ModelBusy(LOADING)
        raise ModelError("this bot has no model", remedy="look at its log")


def name_of(settings: ModelSettings, model: ChatModel | None) -> str:
    """What a model is called that may not be loaded yet."""
    if model is not None:
        return model.name
    if settings.name or settings.path is None:
        return settings.name or "none"
    return settings.path.stem if settings.path.is_file() else settings.path.resolve().name


async def _closable(
    model: ChatModel, query: str, history: Sequence[Turn], params: GenerationParams, user: str
) -> AsyncGenerator[Delta]:
    """Any model's answer as a generator, which can be closed."""
    async for delta in model.chat(query, history, params, user=user):
        yield delta
