"""Many askers of one engine, and what is measured of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter

from model.config import ChatGLMConfig
from model.engine import Engine
from model.runner import Prompt
from model.types import GenerationParams

WINDOW = 30.0
"""Seconds in which users are compared."""


@dataclass(frozen=True, slots=True)
class Heard:
    """When a question was asked and its tokens came, in seconds of one clock."""

    user: str
    asked: float
    tokens: tuple[float, ...]


class Crowd:
    """Asks random prompts of given lengths; answers go on to their full length."""

    def __init__(self, engine: Engine, config: ChatGLMConfig) -> None:
        self._engine = engine
        self._config = config
        self._asked = 0
        self.log = list[tuple[str, float]]()
        """(user, second) of every token of every answer, also of those that were not heard to their end."""

    async def ask(self, user: str, prompt: int, answer: int) -> Heard:
        """One answer of `answer` tokens to `prompt` tokens."""
        self._asked += 1
        config, chance = self._config, random.Random(self._asked)
        words = chance.choices(range(config.mask_token_id), k=prompt - 2)
        ids = (*words, config.gmask_token_id, config.bos_token_id)
        params = GenerationParams(seed=self._asked, temperature=1.0, top_p=1.0)
        asked, tokens = perf_counter(), list[float]()
        job = self._engine.ask(Prompt(ids, answer, params), user=user)
        try:
            while isinstance(await job.news.get(), int):
                tokens.append(perf_counter())
                self.log.append((user, tokens[-1]))
        finally:
            self._engine.give_up(job)
        return Heard(user, asked, tuple(tokens))

    async def together(self, users: int, prompt: int, answer: int) -> list[Heard]:
        """As many users, each with a question at the same moment."""
        return await asyncio.gather(*(self.ask(f"user {n}", prompt, answer) for n in range(users)))

    async def backlogs(self, users: int, prompt: int, answer: int, seconds: float) -> list[float]:
        """Jain's index in windows of 30 s while all ask anew when answered, the first one ten at a time."""
        names = [f"user {n}" for n in range(users)]

        async def keep_asking(user: str) -> None:
            while True:
                await self.ask(user, prompt, answer)

        begun = len(self.log)
        tasks = [asyncio.create_task(keep_asking(name)) for name in [names[0]] * 9 + names]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return windows(self.log[begun:], names, WINDOW)


def rate(heard: Sequence[Heard]) -> float:
    """Tokens a second of all, from when the last one began to when the first one ended."""
    begin, end = max(one.tokens[0] for one in heard), min(one.tokens[-1] for one in heard)
    tokens = sum(begin < at <= end for one in heard for at in one.tokens)
    return tokens / (end - begin) if end > begin else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 where all have the same, 1 / n where one has all (Jain, Chiu and Hawe 1984)."""
    squares = len(shares) * sum(share * share for share in shares)
    return sum(shares) ** 2 / squares if squares else 1.0


def windows(times: Sequence[tuple[str, float]], users: Sequence[str], length: float) -> list[float]:
    """Jain's index of the users' tokens in each whole window after the first; times: (user, second)."""
    if not times:
        return []
    begin, end = min(at for _, at in times), max(at for _, at in times)
    indices = list[float]()
    for number in range(1, int((end - begin) / length)):
        first = begin + number * length
        counts = Counter(user for user, at in times if first <= at < first + length)
        indices.append(jain([counts[user] for user in users]))
    return indices


def rounds_waited(heard: Sequence[Heard]) -> float:
    """The longest wait for a first token, in rounds: what all of them took, each being served once."""
    whole = max(one.tokens[-1] for one in heard) - min(one.asked for one in heard)
    return max(one.tokens[0] - one.asked for one in heard) / whole
