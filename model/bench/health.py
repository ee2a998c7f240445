"""Whether an event loop still answers while the model beside it computes on all cores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from time import perf_counter

import aiohttp
from aiohttp import web

from model.chatglm import ChatGLM
from model.kv_cache import KVCache, Storage, page_count
from model.sampling import Sampler
from model.serial import SerialModel
from model.types import Delta, GenerationParams, Turn

ASKED = 200
PAUSE = 0.02
"""Seconds between two requests: they meet several steps of the model, wherever it stands in them."""
_PROMPT = 32


class Babbler:
    """A `model.local.Backend` that reads a prompt of random ids and decodes until nobody listens."""

    name = "babbler"
    kernels = "those of its network"

    def __init__(self, network: ChatGLM, storage: Storage, max_context: int) -> None:
        self.max_context = max_context
        self._network = network
        self._storage = storage

    def count_tokens(self, text: str) -> int:
        """One for each character."""
        return len(text)

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        """Deltas of one character for each token."""
        network, config = self._network, self._network.config
        cache = KVCache(network.new_pages(page_count(self.max_context), self._storage))
        ids = [*range(_PROMPT), config.gmask_token_id, config.bos_token_id]
        sampler, logits = Sampler(params), network.begin([ids], [cache])
        while cache.length < self.max_context:
            token = sampler.next(logits[0])
            yield Delta("x")
            logits = network.decode([token], [cache])
        yield Delta("", "length")

    def close(self) -> None:
        """The network is the caller's."""


async def answer_times(network: ChatGLM, storage: Storage, asked: int = ASKED) -> list[float]:
    """Seconds that GET /healthz takes, each time it is asked, while `SerialModel` decodes.

    Server and client are in this thread and the model in another one of this process, as in the bot; a fresh
    connection for each request.
    """
    model = SerialModel(Babbler(network, storage, network.config.max_sequence_length))
    runner = web.AppRunner(_application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    talking = asyncio.create_task(_talk(model))
    try:
        return await _ask(f"http://127.0.0.1:{runner.addresses[0][1]}/healthz", asked, talking)
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await model.close()
        await runner.cleanup()


def _application() -> web.Application:
    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    app = web.Application()
    app.router.add_get("/healthz", alive)
    return app


async def _talk(model: SerialModel) -> None:
    while True:
        async for _ in model.chat("?", (), GenerationParams(seed=0), user="bench"):
            pass


async def _ask(url: str, asked: int, talking: asyncio.Task[None]) -> list[float]:
    times = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as client:
        for _ in range(asked):
            began = perf_counter()
            async with client.get(url) as response:
                await response.read()
            times.append(perf_counter() - began)
            if talking.done():
                talking.result()
            await asyncio.sleep(PAUSE)
    return times
