"""Prompts that are read a slice at a time, so that running answers need not wait for all of it.

A prompt sees itself as a whole, so it cannot be read in pieces of tokens; but only attention asks for all of
a layer's keys and values, everything else works row by row. A slice is one half of a layer, up to attention
or from it on, over some rows. What comes out is the same as in one go, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from model.config import ChatGLMConfig
from model.kernels.operations import Operations
from model.kv_cache import KVBatch, KVCache

Place: TypeAlias = tuple[int, int]
"""(position, block position) of a token."""
Rotary: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of some places (`kernels.rotary.tables`)."""


class Network(Protocol):
    """What reading asks of a network; see `model.chatglm.ChatGLM`."""

    config: ChatGLMConfig
    operations: Operations

    def begin_with(self, ids: Sequence[int]) -> Tensor: ...

    def rotary(self, places: Sequence[Place]) -> Rotary: ...

    def project(self, layer: int, a: Tensor) -> Tensor: ...

    def finish(self, layer: int, a: Tensor, context: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Split:
    """Ids as the network takes them: what sees itself as a whole, then one token after another."""

    context: Sequence[int]
    answer: Sequence[int]
    mask_position: int


class Reading:
    """The contexts of some prompts on their way through the layers, into their caches.

    Until `step` says that it was the last one, the caches count nothing of them.
    """

    def __init__(
        self, network: Network, splits: Sequence[Split], caches: Sequence[KVCache], *, rows: int | None = None
    ) -> None:
        """rows: of a slice at most; None is all. Raises OutOfPages, and ModelError for an unknown id."""
        self._network = network
        self._most = rows
        self._caches = tuple(caches)
        self._lengths = [len(split.context) for split in splits]
        self._batch = KVBatch(self._caches, self._lengths)
        for split, cache in zip(splits, caches, strict=True):
            cache.mask_position, cache.answered = split.mask_position, 0
        self._a = network.begin_with([token for split in splits for token in split.context])
        self._rotary = network.rotary([(t, 0) for length in self._lengths for t in range(length)])
        self._layer = 0
        self._begin_layer()

    @property
    def left(self) -> int:
        """Rows times layers to go; half of a row's work in a layer is before attention, half after it."""
        layers = self._network.config.num_layers - self._layer
        return layers * len(self._a) - (self._row + self._attended) // 2

    def step(self) -> bool:
        """Compute one slice; True says that it was the last one and the prompts are in their caches."""
        rows = len(self._a)
        if self._row < rows:
            self._project(slice(self._row, self._end_of_slice(self._row)))
        elif self._attended < rows:
            self._attend(slice(self._attended, self._end_of_slice(self._attended)))
        if self._attended == rows:
            self._a = torch.cat(self._next) if self._next else self._a
            self._layer += 1
            self._begin_layer()
        if self._layer < self._network.config.num_layers and rows:
            return False
        if self._caches:
            self._batch.commit()
        return True

    def drop(self, cache: KVCache) -> None:
        """Go on without one of the prompts, whose pages may be given back; the layer at work begins anew."""
        gone = self._caches.index(cache)
        keep = torch.repeat_interleave(
            torch.tensor([number != gone for number in range(len(self._caches))]),
            torch.tensor(self._lengths, dtype=torch.long),
        ).to(self._a.device)
        self._caches = self._caches[:gone] + self._caches[gone + 1 :]
        del self._lengths[gone]
        self._a = self._a[keep]
        self._rotary = self._rotary[0][keep], self._rotary[1][keep]
        if self._caches:
            self._batch = KVBatch(self._caches, self._lengths)
        self._begin_layer()

    # -- a layer ----------------------------------------------------------------------------

    def _begin_layer(self) -> None:
        self._row = self._attended = 0
        self._rotated = list[tuple[Tensor, Tensor, Tensor]]()
        self._seen = list[tuple[Tensor, Tensor]]()
        self._next = list[Tensor]()

    def _end_of_slice(self, begin: int) -> int:
        rows = len(self._a)
        return rows if self._most is None else min(begin + self._most, rows)

    def _project(self, rows: slice) -> None:
        """Queries, keys and values of some rows; keys and values go to the pages too."""
        cos, sin = (table[rows] for table in self._rotary)
        qkv = self._network.project(self._layer, self._a[rows])
        batch = self._batch
        self._rotated.append(
            self._network.operations.rope_kv(qkv, cos, sin, batch.pages, batch.slots[rows], self._layer)
        )
        self._row = rows.stop
        if self._row == len(self._a):
            self._query, key, value = (torch.cat(parts) for parts in zip(*self._rotated, strict=True))
            self._rotated.clear()
            keys, values = torch.split(key, self._lengths), torch.split(value, self._lengths)
            self._seen = [self._with_prefix(*one) for one in zip(self._caches, keys, values, strict=True)]

    def _with_prefix(self, cache: KVCache, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values that a prompt sees: what is in its cache already, then its own."""
        if not cache.length:
            return key, value
        before = self._batch.pages.read(self._layer, cache.indices, cache.length, key.dtype)
        return torch.cat((before[0].transpose(0, 1), key)), torch.cat((before[1].transpose(0, 1), value))

    def _attend(self, rows: slice) -> None:
        """Attention of some rows to all that their prompts see, and the rest of the layer."""
        contexts, begin = list[Tensor](), 0
        for length, (key, value) in zip(self._lengths, self._seen, strict=True):
            first, last = max(rows.start, begin), min(rows.stop, begin + length)
            if first < last:
                query = self._query[first:last]
                contexts.append(self._network.operations.context_attention(query, key, value))
            begin += length
        a = self._a[rows]
        self._next.append(self._network.finish(self._layer, a, torch.cat(contexts)))
        self._attended = rows.stop
