"""The configured language model, by the entry point that is named like its backend."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from bot.config import LoadedConfig
from model.types import ChatModel

GROUP = "glmbot.models"


def load_model(loaded: LoadedConfig) -> ChatModel | None:
    """Load it, which may take long; None where answers are extractive. Raises ConfigError and ModelError."""
    point = _backend(loaded)
    model: ChatModel | None = point.load()(loaded.config.model) if point else None
    return model


def examine_model(loaded: LoadedConfig) -> list[str]:
    """What an operator should know, without loading it. Raises ConfigError and ModelError.

    A backend's module says so in an optional function `check` beside `create`.
    """
    point = _backend(loaded)
    check = getattr(import_module(point.module), "check", None) if point else None
    notices: Iterable[str] = check(loaded.config.model) if check else ()
    return list(notices)


def _backend(loaded: LoadedConfig) -> EntryPoint | None:
    settings = loaded.config.model
    if settings.backend == "local":
        if settings.path is None:
            return None
        if settings.kv_cache in ("int8", "int4"):
            raise loaded.error(
                ("model", "kv_cache"), f"{settings.kv_cache} comes with a later release", "use auto or fp16"
            )
    points = [point for point in entry_points(group=GROUP) if point.name == settings.backend]
    if not points:
        raise loaded.error(
            ("model", "backend"),
            f"this installation has no model backend {settings.backend!r}",
            "set model.path to null for extractive answers",
        )
    return points[0]
