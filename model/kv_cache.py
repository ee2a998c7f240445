"""The keys and values that a sequence has left behind, for its next tokens to attend to."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys (after rotation) and values of one sequence, layer by layer, and where its answer stands.

    mask_position: the position that all tokens of the answer have; answered: how many of them are in.
    """

    def __init__(
        self, layers: int, room: int, heads: int, head_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`room`: of so many tokens at first; it doubles when they do not do."""
        self.mask_position = 0
        self.answered = 0
        self._lengths = [0] * layers
        self._store = torch.empty(layers, 2, room, heads, head_size, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        """Tokens in it, those of a prefix included."""
        return self._lengths[-1]

    @property
    def nbytes(self) -> int:
        """Bytes it holds, its room included."""
        return self._store.numel() * self._store.element_size()

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put in keys and values [new, heads, head size] of a layer; returns all of its own, [all, ...]."""
        start, end = self._lengths[layer], self._lengths[layer] + len(key)
        self._reserve(end)
        self._store[layer, 0, start:end] = key
        self._store[layer, 1, start:end] = value
        self._lengths[layer] = end
        return self._store[layer, 0, :end], self._store[layer, 1, :end]

    def _reserve(self, tokens: int) -> None:
        room = self._store.shape[2]
        if tokens > room:
            shape = list(self._store.shape)
            shape[2] = max(tokens, 2 * room)
            larger = self._store.new_empty(shape)
            larger[:, :, :room] = self._store
            self._store = larger
