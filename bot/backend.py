"""The configured language model, by the entry point that is named like its backend."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import structlog
from aiohttp import web

from bot.config import LoadedConfig
from bot.retrieval import Encoder, load_encoder
from model.types import ChatModel, InProcess

log = structlog.get_logger(__name__)
GROUP = "glmbot.models"
FACES = "glmbot.faces"
SLOW_LOADING = 30.0
"""Seconds from which on the log says how to load faster."""
_THREAD = "model loading"


def load_model(loaded: LoadedConfig) -> ChatModel | None:
    """Load it, which may take minutes; None for extractive answers. Raises ConfigError and ModelError."""
    point, settings = _backend(loaded), loaded.config.model
    if point is None:
        return None
    log.info("loading the model", backend=settings.backend, path=settings.path and str(settings.path))
    began = time.monotonic()
    model: ChatModel = point.load()(settings)
    took = time.monotonic() - began
    hint = {"hint": "weights that are not packed load faster once converted: glmbot model convert"}
    kernels = {"kernels": model.kernels} if isinstance(model, InProcess) else {}
    more = kernels | (hint if took > SLOW_LOADING else {})
    log.info("model loaded", name=model.name, seconds=round(took, 1), **more)
    return model


async def load_on_thread(loaded: LoadedConfig) -> ChatModel | None:
    """`load_model` beside the event loop. Whoever is cancelled leaves a thread that nothing waits for."""
    future: Future[ChatModel | None] = Future()
    future.set_running_or_notify_cancel()  # a caller that is cancelled must not cancel it under the thread

    def load() -> None:
        try:
            future.set_result(load_model(loaded))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=load, name=_THREAD, daemon=True).start()
    return await asyncio.wrap_future(future)


def exit_if_loading() -> None:
    """End the process with code 0 where a thread still loads; to be called when all else is closed.

    The interpreter's own end would break the thread off inside torch, and C++ answers that with SIGABRT.
    """
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def api_routes(loaded: LoadedConfig, model: ChatModel | None, encoder: Encoder | None) -> list[web.RouteDef]:
    """The model's API over HTTP, none without keys for it; without a model there are embeddings only.

    Raises ConfigError and ModelError.
    """
    settings = loaded.config.model
    keys = [key.get_secret_value() for key in settings.api.keys if key.get_secret_value()]
    if not keys and settings.api.keys_file is None:
        return []
    points = list(entry_points(group=FACES))
    if not points:
        raise loaded.error(
            ("model", "api"), "this installation has no API for models", "run: pip install 'glmbot[model]'"
        )
    mount = points[0].load()
    routes: list[web.RouteDef] = mount(
        model,
        api_keys=keys,
        keys_file=settings.api.keys_file,
        encoder=encoder or load_encoder(loaded.config.retrieval.encoder),
        prefixes=tuple(settings.prefixes),
        max_new_tokens=settings.max_new_tokens,
        max_per_key=settings.api.max_per_key,
    )
    return routes


def is_configured(loaded: LoadedConfig) -> bool:
    """Whether the configuration names a model. Raises ConfigError."""
    return _backend(loaded) is not None


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
    if settings.backend == "local" and settings.path is None:
        return None
    points = [point for point in entry_points(group=GROUP) if point.name == settings.backend]
    if not points:
        raise loaded.error(
            ("model", "backend"),
            f"this installation has no model backend {settings.backend!r}",
            "set model.path to null for extractive answers",
        )
    return points[0]
