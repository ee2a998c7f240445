"""Answers to the questions of one request, side by side, as one stream; and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from model.types import ChatModel, Delta, GenerationParams, ModelBusy, ModelError, Turn, Usage


@dataclass(frozen=True, slots=True)
class Question:
    """One call of `ChatModel.chat`."""

    query: str
    history: tuple[Turn, ...]
    params: GenerationParams


@dataclass(slots=True)
class Answer:
    """What has come of an answer so far."""

    texts: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)

    def add(self, delta: Delta) -> None:
        """Take the next piece."""
        if delta.text:
            self.texts.append(delta.text)
        if delta.finish:
            self.finish = "length" if delta.finish == "length" else "stop"
            self.usage = delta.usage


@dataclass(slots=True)
class Line:
    """A user's requests: of their answers a model may take a few at a time."""

    requests: int = 0
    running: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Some answer is complete: who was refused may try again."""


class Answers:
    """Iterates over (index of the question, delta) as they come; closing it gives up what is unfinished."""

    def __init__(self, model: ChatModel, questions: Sequence[Question], user: str, line: Line) -> None:
        self.questions = questions
        self.answers = [Answer() for _ in questions]
        self._model = model
        self._user = user
        self._line = line

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta]]:
        """Ends when all answers have. Raises the first ModelError of any."""
        news: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue(maxsize=len(self.questions))
        tasks = [asyncio.create_task(self._answer(index, news)) for index in range(len(self.questions))]
        try:
            left = len(tasks)
            while left:
                index, item = await news.get()
                if isinstance(item, Exception):
                    raise item
                self.answers[index].add(item)
                left -= item.finish is not None
                yield index, item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def pieces(self) -> int:
        """Pieces of text so far: nearly the number of tokens, where a model has not counted yet."""
        return sum(len(answer.texts) for answer in self.answers)

    async def usage(self) -> Usage:
        """Tokens of all answers, and of each prompt once, however many answers it got.

        Where the model does not count, its tokenizer does, on a thread.
        """
        prompts: dict[tuple[str, tuple[Turn, ...]], int] = {}
        tokens = 0
        for question, answer in zip(self.questions, self.answers, strict=True):
            used = answer.usage
            if used is None:
                used = await asyncio.to_thread(self._count, question, answer)
            prompts[question.query, question.history] = used.prompt
            tokens += used.answer
        return Usage(sum(prompts.values()), tokens)

    async def _answer(self, index: int, news: asyncio.Queue[tuple[int, Delta | Exception]]) -> None:
        """Pass on one answer, or what went wrong."""
        error: Exception
        line = self._line
        while True:
            line.running += 1
            try:
                await self._try(index, news)
                return
            except ModelBusy as busy:
                error = busy
            except Exception as failure:
                error = failure
                break
            finally:
                line.running -= 1
                line.ended.set()
            # A user may have a few answers at a time; the others come when one of those is done.
            if not line.running or self.answers[index].texts:
                break
            line.ended.clear()
            await line.ended.wait()
        await news.put((index, error))

    async def _try(self, index: int, news: asyncio.Queue[tuple[int, Delta | Exception]]) -> None:
        question = self.questions[index]
        deltas = self._model.chat(question.query, question.history, question.params, user=self._user)
        try:
            async for delta in deltas:
                await news.put((index, delta))
                if delta.finish:
                    break
            else:
                raise ModelError("the model broke off")
        finally:
            close = getattr(deltas, "aclose", None)  # an iterator need not have one, a generator does
            if close is not None:
                await close()

    def _count(self, question: Question, answer: Answer) -> Usage:
        count = self._model.count_tokens
        turns = sum(count(turn.question) + count(turn.answer) for turn in question.history)
        return Usage(turns + count(question.query), count(answer.text))
