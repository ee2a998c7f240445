"""Texts that say the same, put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bot.retrieval.dense import Encoder

ALIKE = 0.8
"""Cosine from which two questions are taken for one."""
_BLOCK = 256
"""Texts that are compared with all groups at once: one product of matrices instead of many of vectors."""


def group(texts: Sequence[str], encoder: Encoder, *, alike: float = ALIKE) -> list[list[int]]:
    """The places of texts that are alike; texts come in the order of their weight, the heaviest first.

    A text joins the group whose first text is nearest: chains of small differences do not run together.
    Takes a second or two for 5,000 texts, and as many squared floats.
    """
    if not texts:
        return []
    vectors = encoder.encode(list(texts))
    leaders = np.empty_like(vectors)
    groups = list[list[int]]()
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        before = len(groups)
        known = block @ leaders[:before].T if before else np.full((len(block), 1), -1, np.float32)
        nearest = known.argmax(axis=1)
        for number, vector in enumerate(block):
            place, likeness = int(nearest[number]), float(known[number, nearest[number]])
            if len(groups) > before:  # those that this block has brought
                new = leaders[before : len(groups)] @ vector
                if new.max() > likeness:
                    place, likeness = before + int(new.argmax()), float(new.max())
            if likeness >= alike:
                groups[place].append(start + number)
            else:
                leaders[len(groups)] = vector
                groups.append([start + number])
    return groups
