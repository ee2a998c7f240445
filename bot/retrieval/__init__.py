"""Search over FAQ entries and documents: exact look-up, fused retrieval, one calibrated confidence.

numpy and the encoder are imported by the first use of the names that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bot.retrieval.entry import Entry, Hit

if TYPE_CHECKING:
    from bot.retrieval.dense import Encoder, load_encoder
    from bot.retrieval.extract import best_sentences
    from bot.retrieval.groups import group
    from bot.retrieval.index import Index
    from bot.retrieval.text import exact_key, is_cjk, normalise, sentences

__all__ = [
    "Encoder",
    "Entry",
    "Hit",
    "Index",
    "best_sentences",
    "exact_key",
    "group",
    "is_cjk",
    "load_encoder",
    "normalise",
    "sentences",
]

_HOMES = {
    "Encoder": "dense",
    "Index": "index",
    "best_sentences": "extract",
    "exact_key": "text",
    "group": "groups",
    "is_cjk": "text",
    "load_encoder": "dense",
    "normalise": "text",
    "sentences": "text",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
