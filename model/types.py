"""What the bot sees of a model: the `ChatModel` protocol and its plain types (no torch)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

Device: TypeAlias = Literal["auto", "cuda", "cpu", "mps"]
Quantization: TypeAlias = Literal["int4", "int8", "none"]
KVType: TypeAlias = Literal["auto", "fp16", "int8", "int4"]
"""How keys and values are stored; auto is fp16."""


class ModelError(Exception):
    """A model cannot be loaded or cannot answer; names the file and tensor at fault, and the remedy."""

    def __init__(
        self,
        problem: str,
        *,
        file: Path | None = None,
        tensor: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.tensor = tensor
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        text = ": ".join(str(part) for part in (self.file, self.tensor, self.problem) if part is not None)
        return f"{text}; {self.remedy}" if self.remedy else text


class ModelBusy(ModelError):
    """The model's queue is full; `retry_after` is an honest estimate in seconds.

    position: the place in the line that there was no room for, counted from 1, where a line is kept.
    """

    def __init__(self, retry_after: float, *, position: int | None = None) -> None:
        self.retry_after = retry_after
        self.position = position
        super().__init__(f"model busy, about {retry_after:g} s")


class ModelTimeout(ModelError):
    """An answer did not end within the `seconds` that were given for it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"no answer within {seconds:g} s", remedy="allow more time, or ask for a shorter answer"
        )


class PromptTooLong(ModelError):
    """A question of `tokens` tokens where the context has room for `room`."""

    def __init__(self, problem: str, *, tokens: int, room: int, remedy: str) -> None:
        self.tokens = tokens
        self.room = max(room, 0)
        super().__init__(problem, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of a talk: what was asked and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """How to sample; the defaults are ChatGLM-6B's own.

    top_k: None is the model's own (50 for ChatGLM-6B), 0 is off. timeout: seconds from the question to the
    end of the answer, after which it is given up with ModelTimeout.
    """

    max_new_tokens: int = 512
    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prefix: str | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a prompt, its specials included, and of its answer."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer; `finish` is set on the last one, and `usage` where the model counts."""

    text: str
    finish: Literal["stop", "length", "cancelled"] | None = None
    usage: Usage | None = None


def prompt_room(max_context: int) -> int:
    """Tokens that a prompt without history may have: half is the answer's, a sixteenth the chat format's."""
    return max_context * 7 // 16


@runtime_checkable
class ChatModel(Protocol):
    """A model that answers in a stream and can count tokens."""

    @property
    def name(self) -> str: ...

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncIterator[Delta]:
        """Stream the answer to `query`; `user` is the key of fairness. Raises ModelError, also a subclass.

        A delta's text may be empty: that is a sign of life. Closing the iterator gives the request up.
        """
        ...

    async def close(self) -> None: ...


@runtime_checkable
class InProcess(Protocol):
    """What a ChatModel that computes in this process offers besides."""

    @property
    def kernels(self) -> str:
        """What computes and, in the same line, why nothing faster: "native avx512vnni, 2 threads"."""
        ...


@runtime_checkable
class Fallible(Protocol):
    """A ChatModel that knows when it is over with it."""

    @property
    def problem(self) -> str:
        """Why it will not answer any more; empty as long as it may."""
        ...
