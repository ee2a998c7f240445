"""P-Tuning v2 prefixes: keys and values that stand before a sequence's own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys [:, 0] (not rotated) and values [:, 1] of every layer, [layers, 2, length, heads, head size]."""

    values: Tensor
    name: str = ""

    @property
    def length(self) -> int:
        """Tokens it stands for; they count towards no position."""
        return self.values.shape[2]
