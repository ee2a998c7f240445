"""What is measured: the model of this process, or a peer in another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from model.bench.figures import Costs

CONTEXT = 64
"""Tokens that a sequence has when its steps are timed."""


@dataclass(frozen=True, slots=True)
class PromptTimes:
    """Seconds until a prompt is read, and until the first token of its answer is drawn."""

    read: float
    first: float


class Subject(Protocol):
    """Anything that decodes batches and reads prompts; greedy or not, it draws tokens itself."""

    @property
    def name(self) -> str: ...

    @property
    def most(self) -> int:
        """Sequences that it can decode at once."""
        ...

    @property
    def costs(self) -> Costs: ...

    def decode(self, batch: int, steps: int) -> float:
        """Seconds of so many steps of a batch, each sequence CONTEXT tokens long before the first one."""
        ...

    def prefill(self, tokens: int) -> PromptTimes:
        """Read a prompt of so many tokens and draw the first one of its answer."""
        ...

    def close(self) -> None: ...
