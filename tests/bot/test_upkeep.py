"""An index follows its source: at start, in the background when it is large, and after every change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bot import Background, DataError
from bot.retrieval import Entry, Index
from bot.upkeep import AT_ONCE, keep_index


class Letters:
    """An encoder of letter counts; it waits at `gate`."""

    name, dim = "letters", 32

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.gate.wait(30)
        vectors = np.full((len(texts), self.dim), 0.01, np.float32)
        for row, text in enumerate(texts):
            for char in text:
                vectors[row, ord(char) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Shelf:
    """A source that a test changes."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.problem: Exception | None = None
        self.refused = asyncio.Event()

    async def version(self) -> object:
        return self.names

    async def load(self) -> tuple[list[Entry], object]:
        if self.problem is not None:
            self.refused.set()
            raise self.problem
        return [Entry(name, (name,), name) for name in self.names], self.names


async def until(index: Index, text: str) -> None:
    """Wait until the index has that very question."""
    async with asyncio.timeout(10):
        while index.exact(text) is None:  # noqa: ASYNC110 - an index has no event
            await asyncio.sleep(0.001)


async def test_a_small_source_is_indexed_before_the_start_goes_on() -> None:
    index, background = Index("faq", encoder=Letters()), Background("faq")
    await keep_index(index, Shelf("a", "b"), background)
    assert index.exact("a")
    await background.stop()


async def test_changes_are_taken_over_and_errors_leave_the_old_entries() -> None:
    index, background, shelf = Index("faq", encoder=Letters()), Background("faq"), Shelf("a")
    await keep_index(index, shelf, background, look_every=0.001)
    shelf.problem, shelf.names = DataError("broken"), ("b",)
    await shelf.refused.wait()
    assert index.exact("a")
    shelf.problem = None
    await until(index, "b")
    assert index.exact("a") is None
    await background.stop()


async def test_a_large_source_answers_exact_questions_while_it_is_indexed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bot.upkeep.PATIENCE", 0.001)
    encoder = Letters()
    encoder.gate.clear()
    index, background = Index("faq", encoder=encoder), Background("faq")
    await keep_index(index, Shelf(*(f"question {n}" for n in range(AT_ONCE + 1))), background)
    await until(index, "question 7")
    stopping = asyncio.create_task(background.stop())
    encoder.gate.set()
    await stopping


async def test_the_first_load_may_fail_loudly() -> None:
    index, background, shelf = Index("faq", encoder=Letters()), Background("faq"), Shelf("a")
    shelf.problem = DataError("broken")
    with pytest.raises(DataError):
        await keep_index(index, shelf, background)


async def test_a_file_that_vanishes_between_two_looks_does_not_end_the_upkeep() -> None:
    shelf, index, background = Shelf("a"), Index("faq", encoder=Letters()), Background("test")
    await keep_index(index, shelf, background, look_every=0.001)
    shelf.names, shelf.problem = ("a", "b"), FileNotFoundError("faq.yaml")
    await asyncio.wait_for(shelf.refused.wait(), 5)
    shelf.problem = None
    await until(index, "b")
    await background.stop()
