"""Texts that say the same, put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bot.retrieval.dense import Encoder

ALIKE = 0.8
"""Cosine from which two questions are taken for one."""


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
    for place, vector in enumerate(vectors):
        count = len(groups)
        if count:
            likeness = leaders[:count] @ vector
            nearest = int(likeness.argmax())
            if likeness[nearest] >= alike:
                groups[nearest].append(place)
                continue
        leaders[count] = vector
        groups.append([place])
    return groups
