"""Steps of many answers on a graphics card: from tokens to the next ones without the host in between.

All that changes from step to step lies in one block of memory that is copied to the card; the step itself is
always the same launches over the same addresses, so it is captured once into a CUDA graph for each size and
replayed. Sampling happens on the card too: only tokens come back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import structlog
import torch

from model.chatglm import ALPHA, ChatGLM
from model.kernels.fused import PART, FixedRows, Fused, takes_pages
from model.kernels.mma_linear import ROWS
from model.kernels.sample import ROW, Row, parameters
from model.kv_cache import KVCache, KVPages, page_count
from model.sampling import BLANK_ID, Sampler

log = structlog.get_logger(__name__)

SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, ROWS)
"""Answers of a step that a graph is captured for; others are filled up with rows that are none."""
_Key: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of a step: the token that is read, where it stands, and how the next one is drawn.

    ids: of prompt and answer so far, for a repetition penalty.
    """

    token: int
    cache: KVCache
    sampler: Sampler
    ids: Sequence[int]


class Inputs:
    """What a step reads, on the host and at the same places on the device; one copy brings it there."""

    def __init__(self, tables: int, device: torch.device) -> None:
        """tables: pages that all sequences of a step may have together."""
        words = ROWS * (2 + 2 + 4 + 2 + 8) + tables
        on_card = device.type == "cuda"
        self._host = torch.zeros(words, dtype=torch.int32, pin_memory=on_card)
        self._device = self._host if not on_card else torch.zeros(words, dtype=torch.int32, device=device)
        numbers = self._host.numpy()
        ends = np.cumsum([2 * ROWS, 2 * ROWS, 4 * ROWS, 2 * ROWS, 8 * ROWS])
        parts = np.split(numbers, ends)
        self.tokens, self.slots = parts[0].view(np.int64), parts[1].view(np.int64)
        self.places = parts[2].view(np.int64).reshape(ROWS, 2)
        self.rows = parts[3].reshape(ROWS, 2)
        self.parameters = parts[4].view(ROW)
        self.tables = parts[5]
        tokens, slots, places, rows, parameters, tables_ = torch.tensor_split(self._device, ends.tolist())
        self.device_tokens, self.device_slots = tokens.view(torch.int64), slots.view(torch.int64)
        self.device_places = places.view(torch.int64).view(ROWS, 2)
        self.device_rows, self.device_parameters = rows.view(ROWS, 2), parameters.view(ROWS, 8)
        self.device_tables = tables_

    def send(self) -> None:
        """Copy to the device, in its stream."""
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)


class Decoder:
    """Makes steps over one pool of pages; in one thread, one after the other."""

    def __init__(
        self,
        network: ChatGLM,
        operations: Fused,
        pages: KVPages,
        *,
        limit: int | None,
        longest: int,
        fallback: int = BLANK_ID,
    ) -> None:
        """limit: tokens that may be drawn, None for all; longest: of a sequence, its prefix included."""
        config, device = network.config, network.device
        self._network = network
        self._operations = operations
        self._pages = pages
        self.longest = longest
        self._limit = limit or config.vocab_size
        self._fallback = fallback
        self._inputs = Inputs(ROWS * page_count(longest), device)
        self._tokens = torch.zeros(ROWS, dtype=torch.int32, device=device)
        self._seen = _Seen(config.vocab_size, device)
        positions = torch.arange(longest + 1, device=device).unsqueeze(1)
        self._cos, self._sin = (table[:, 0] for table in network.rotary_of(positions))
        self._captures = device.type == "cuda"
        self._graphs: dict[_Key, torch.cuda.CUDAGraph | None] = {}
        """None where there was no room for one."""
        self._memory: Any = None
        """Of all graphs, as torch names it."""

    @staticmethod
    def fits(network: ChatGLM, pages: KVPages) -> bool:
        """Whether steps of such a network can be made so."""
        return takes_pages(pages) and network.config.vocab_size % 4 == 0

    def takes(self, caches: Sequence[KVCache]) -> bool:
        """Whether these can be a step: there are not too many, and none is too long."""
        return len(caches) <= ROWS and all(cache.length < self.longest for cache in caches)

    def step(self, steps: Sequence[Step]) -> list[int]:
        """The next token of each of up to `ROWS` answers; their caches then hold the tokens that were read.

        Raises OutOfPages, and whatever a device raises; the same step may then be made again.
        """
        try:
            drawn = self._draw(steps)
        except Exception:
            for step in steps:  # the kernel may have set the bit of a token that nobody got
                self._seen.forget(step.cache)
            raise
        tokens = [~token if token < 0 else token for token in drawn]
        for step, token, told in zip(steps, tokens, drawn, strict=True):
            if told < 0:  # the complement says that its logits were broken
                step.sampler.warn_of_broken()
            step.cache.length += 1
            step.cache.answered += 1
            if step.sampler.params.temperature > 0:
                step.sampler.draw()
            self._seen.add(step.cache, token)
        return tokens

    def _draw(self, steps: Sequence[Step]) -> list[int]:
        """What the kernel gives: tokens, or the complement of one where logits were broken."""
        longest = self._fill(steps)
        self._inputs.send()
        size = next(size for size in SIZES if size >= len(steps))
        parts = 1
        while parts * PART < longest:
            parts *= 2
        self._run(size, parts * PART)
        tokens: list[int] = self._tokens[: len(steps)].tolist()
        return tokens

    def forget_graphs(self) -> None:
        """Launch the next steps one by one again, and give back the memory of graphs."""
        self._graphs.clear()
        self._memory = None

    # -- inputs -----------------------------------------------------------------------------

    def _fill(self, steps: Sequence[Step]) -> int:
        """Write what the step reads; returns how many tokens the longest sequence has with its new one."""
        inputs, begin, longest = self._inputs, 0, 0
        for row, step in enumerate(steps):
            cache = step.cache
            cache.reserve(1)
            end, seen = begin + page_count(cache.length + 1), cache.length + 1
            inputs.tokens[row] = step.token
            (inputs.slots[row],) = cache.slots(1)
            inputs.places[row] = cache.mask_position, cache.answered + 1
            inputs.rows[row] = begin, seen
            inputs.tables[begin:end] = cache.table[: end - begin]
            inputs.parameters[row] = self._parameters(step)
            begin, longest = end, max(longest, seen)
        inputs.slots[len(steps) :] = -1
        inputs.rows[len(steps) :] = 0
        inputs.parameters[len(steps) :]["active"] = 0
        return longest

    def _parameters(self, step: Step) -> Row:
        params, sampler = step.sampler.params, step.sampler
        slot = -1 if params.repetition_penalty == 1 else self._seen.slot(step.cache, step.ids)
        return parameters(params, 0.0 if params.temperature <= 0 else sampler.peek(), slot)

    # -- the step ---------------------------------------------------------------------------

    def _run(self, size: int, longest: int) -> None:
        """Replay the graph of that size; the first time, and without a card, launch by launch."""
        key = size, longest
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        self._launch(size, longest)
        if self._captures and key not in self._graphs:
            try:
                self._graphs[key] = self._capture(size, longest)
            except Exception as error:  # the step itself was made, and shows whether the card still works
                self._graphs[key] = None
                log.warning(
                    "steps of this size go without a CUDA graph, and are slower",
                    answers=size,
                    error=str(error).partition("\n")[0],
                )

    def _capture(self, size: int, longest: int) -> torch.cuda.CUDAGraph:
        """A graph, which runs nothing yet; its memory is that of all others, for no two run at once."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self._launch(size, longest)
        self._memory = graph.pool()
        return graph

    def _launch(self, size: int, longest: int) -> None:
        network, operations, inputs = self._network, self._operations, self._inputs
        places = inputs.device_places[:size]
        if not network.config.position_encoding_2d:
            places = places[:, :1]
        tables = self._cos[places], self._sin[places]
        rows = FixedRows(
            self._pages,
            inputs.device_slots[:size],
            inputs.device_tables,
            inputs.device_rows[:size],
            longest,
        )
        embedded = operations.embed(inputs.device_tokens[:size], network.weights.word_embeddings)
        epsilon = network.config.layernorm_epsilon
        a = network.normalise(embedded)
        hidden = operations.layers(a, network.weights, tables, rows, ALPHA, epsilon)
        assert hidden is not None
        operations.sample(
            network.head(hidden),
            inputs.device_parameters,
            self._seen.bits,
            self._tokens,
            self._limit,
            self._fallback,
        )


class _Seen:
    """A bit for each token that an answer's prompt or text holds, on the device, for `ROWS` answers.

    The kernel that draws adds what it drew. Who was not in a step for longest gives its slot to who has none.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self.bits = torch.zeros(ROWS, -(-vocabulary // 32), dtype=torch.int32, device=device)
        self._free = list(range(ROWS))
        self._slots = OrderedDict[KVCache, tuple[int, int]]()
        """Slot of an answer, and how many ids of it are in; who was in a step last stands last."""

    def slot(self, cache: KVCache, ids: Sequence[int]) -> int:
        """Where the bits of an answer are."""
        slot, count = self._slots.pop(cache, (None, -1))
        if slot is None:
            slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1][0]
        self._slots[cache] = slot, len(ids)
        if count != len(ids):
            bits = np.zeros(self.bits.shape[1], np.uint32)
            tokens = np.fromiter(set(ids), np.int64)
            np.bitwise_or.at(bits, tokens // 32, (1 << (tokens % 32)).astype(np.uint32))
            self.bits[slot].copy_(torch.from_numpy(bits.view(np.int32)))
        return slot

    def add(self, cache: KVCache, token: int) -> None:
        """The step added a token."""
        known = self._slots.get(cache)
        if known is not None:
            self._slots[cache] = known[0], known[1] + 1

    def forget(self, cache: KVCache) -> None:
        """Its bits are written anew when they are wanted."""
        known = self._slots.pop(cache, None)
        if known is not None:
            self._free.append(known[0])
