"""The extractive answer: those sentences of a passage that bear on a question."""

from __future__ import annotations

import numpy as np

from bot.retrieval.lexical import LexicalIndex, hash_terms
from bot.retrieval.text import normalise, normalise_query, sentences

_ENOUGH = 0.6


def best_sentences(question: str, text: str, *, limit: int = 160) -> str:
    """Sentences of `text` that cover the question best, in their order; empty only when the text is.

    At most `limit` characters, unless the best sentence alone is longer.
    """
    parts = sentences(text)
    if len(text.strip()) <= limit or len(parts) < 2:
        return text.strip()
    rows = [hash_terms(normalise(part)) for part in parts]
    offsets = np.cumsum([0, *map(len, rows)])
    index = LexicalIndex(np.concatenate(rows), offsets, np.arange(len(rows), dtype=np.int32))
    query = index.query(normalise_query(question))
    scores = index.bm25(query)
    best = int(scores.argmax())
    chosen, size = {best}, len(parts[best])
    for i in sorted({best - 1, best + 1}, key=lambda i: -scores[i] if 0 <= i < len(parts) else 0.0):
        if 0 <= i < len(parts) and size + len(parts[i]) <= limit and scores[i] >= _ENOUGH * scores[best]:
            chosen.add(i)
            size += len(parts[i])
    return "".join(_joined([parts[i] for i in sorted(chosen)]))


def _joined(parts: list[str]) -> list[str]:
    return [part if i == 0 or not part[0].isascii() else f" {part}" for i, part in enumerate(parts)]
