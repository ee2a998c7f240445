"""ChatGLM-6B in process. Importing this package loads no torch; its names do when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model import prompt, quantize
    from model.language_model import LanguageModel, load
    from model.prefix import Prefix, load_prefix
    from model.tokenizer import Tokenizer
    from model.types import ModelError

__all__ = ["LanguageModel", "ModelError", "Prefix", "Tokenizer", "load", "load_prefix", "prompt", "quantize"]

_HOMES = {
    "LanguageModel": "model.language_model",
    "load": "model.language_model",
    "ModelError": "model.types",
    "Prefix": "model.prefix",
    "load_prefix": "model.prefix",
    "Tokenizer": "model.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"model.{name}")
    raise AttributeError(f"module 'model' has no attribute {name!r}")
