"""The model of this process as a subject: whole steps of its network, the drawing of tokens included."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import perf_counter

from torch import Tensor

from model.bench.figures import Costs
from model.bench.subject import CONTEXT, PromptTimes
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.kv_cache import PAGE, KVCache, KVPages, Storage, page_bytes, page_count
from model.reading import Split
from model.sampling import Sampler
from model.types import GenerationParams
from model.weights import tensor_bytes


class Network:
    """A ChatGLM, with keys and values in pages that are made for each measurement."""

    name = "glmbot"
    most = 64

    def __init__(self, network: ChatGLM, storage: Storage) -> None:
        self._network = network
        self._storage = storage
        config, weights = network.config, network.weights
        layer_macs, head_macs = products(config)
        kv_bytes = page_bytes(1, config.num_attention_heads, config.head_size, storage) // PAGE
        self.costs = Costs(
            config.num_layers,
            tensor_bytes(weights.blocks[0]),
            layer_macs,
            tensor_bytes(weights.word_embeddings) + tensor_bytes(weights.final_layernorm),
            head_macs,
            kv_bytes,
        )

    def decode(self, batch: int, steps: int) -> float:
        """See `Subject.decode`; no two sequences share pages."""
        network = self._network
        length = CONTEXT + steps  # <sop> is the last token before the first step
        pages = network.new_pages(batch * page_count(length), self._storage)
        caches = [KVCache(pages) for _ in range(batch)]
        split = self._split(CONTEXT - 1)
        network.prefill([split], caches[:1])
        for cache in caches:
            cache.reserve(length - cache.length)
        for cache in caches[1:]:
            _copy(caches[0], cache)
        samplers = [Sampler(GenerationParams(seed=seed)) for seed in range(batch)]
        tokens = _draw(samplers, network.extend([split.answer] * batch, caches))
        began = perf_counter()
        for _ in range(steps):
            tokens = _draw(samplers, network.decode(tokens, caches))
        return perf_counter() - began

    def prefill(self, tokens: int) -> PromptTimes:
        """See `Subject.prefill`; the prompt ends with [gMASK], and <sop> is a step of its own after it."""
        network = self._network
        caches = [KVCache(network.new_pages(page_count(tokens + 1), self._storage))]
        split, samplers = self._split(tokens), [Sampler(GenerationParams(seed=0))]
        began = perf_counter()
        network.prefill([split], caches)
        read = perf_counter() - began
        _draw(samplers, network.extend([split.answer], caches))
        return PromptTimes(read, perf_counter() - began)

    def close(self) -> None:
        """The network is the caller's."""

    def _split(self, tokens: int) -> Split:
        """A prompt of so many tokens, the last one [gMASK]."""
        config = self._network.config
        ids = random.Random(tokens).choices(range(config.mask_token_id), k=tokens - 1)
        return Split([*ids, config.gmask_token_id], [config.bos_token_id], tokens - 1)


def products(config: ChatGLMConfig) -> tuple[int, int]:
    """Weights of the matrices of a layer, and of the head."""
    hidden, inner = config.hidden_size, config.inner_hidden_size
    return hidden * (4 * hidden + 2 * inner), config.vocab_size * hidden


def _copy(source: KVCache, target: KVCache) -> None:
    pages: KVPages = source.pages
    for one, other in zip(source.table, target.table, strict=True):
        pages.copy(one, other)
    target.length, target.mask_position, target.answered = source.length, source.mask_position, 0


def _draw(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    return [sampler.next(row) for sampler, row in zip(samplers, logits, strict=True)]
