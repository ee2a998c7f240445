"""The model that config.yaml names, in this process: a ChatGLM-6B for many at once, or another family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from model.config import is_other_family, read_config
from model.serial import Backend, SerialModel
from model.types import Device, KVType, ModelError, Quantization

if TYPE_CHECKING:
    from model.batched import BatchedModel
    from model.language_model import LanguageModel

log = structlog.get_logger(__name__)


class Settings(Protocol):
    """What it needs of the model section of config.yaml."""

    @property
    def path(self) -> Path | None: ...

    @property
    def device(self) -> Device: ...

    @property
    def quantization(self) -> Quantization: ...

    @property
    def kv_cache(self) -> KVType: ...

    @property
    def max_context(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def max_running(self) -> int: ...

    @property
    def max_per_user(self) -> int: ...

    @property
    def memory(self) -> int | None: ...

    @property
    def prefixes(self) -> Mapping[str, Path]: ...


def create(settings: Settings) -> BatchedModel | SerialModel:
    """Load `model.path`: a ChatGLM-6B, or another family through transformers. Raises ModelError."""
    path = _path(settings)
    with _packages():
        if is_other_family(path):
            model = SerialModel(
                _load_family(path, settings),
                max_new_tokens=settings.max_new_tokens,
                of_user=settings.max_per_user,
            )
            log.warning(_one_at_a_time(path))
            return model
        from model.batched import BatchedModel, limits_of
        from model.language_model import choose_device
        from model.memory import available

        free = available(choose_device(settings.device))
        chatglm = _load_chatglm(path, settings)
        planned = limits_of(chatglm, answering=settings.max_running, free=free, memory=settings.memory)
        limits = replace(planned, of_user=settings.max_per_user)
        return BatchedModel(chatglm, limits, max_new_tokens=settings.max_new_tokens)


def check(settings: Settings) -> list[str]:
    """What an operator should know of `model.path`; loads no weights. Raises ModelError.

    Without the extra [model] nothing is known of a ChatGLM-6B.
    """
    path = _path(settings)
    if not is_other_family(path):
        with suppress(ModuleNotFoundError):
            return _check_chatglm(path)
        return []
    config = read_config(path)
    with _packages():
        from model.family_folder import check_family

        check_family(config, path)
    _check_features(settings, path)
    return [_one_at_a_time(path)]


def _one_at_a_time(path: Path) -> str:
    """What is to be known of a model of another family."""
    return (
        f"{path.name} ({read_config(path)['model_type']}) serves one request at a time; others wait in a"
        " queue, whatever model.max_running and model.memory say"
    )


def _check_chatglm(path: Path) -> list[str]:
    """Open the heads of the files and the tokenizer."""
    from model.language_model import unused_weights
    from model.loading import open_source
    from model.tokenizer import Tokenizer

    config = open_source(path).config
    Tokenizer(path if path.is_dir() else path.parent).check(config)
    unused = unused_weights(path)
    return [f"a packed file lies there and is used, not {unused[0].name}"] if unused else []


def load_backend(settings: Settings) -> Backend:
    """What answers one request after another. Raises ModelError, without [model] ImportError."""
    path = _path(settings)
    return _load_family(path, settings) if is_other_family(path) else _load_chatglm(path, settings)


def _load_family(path: Path, settings: Settings) -> Backend:
    from model.families import load_family

    _check_features(settings, path)
    return load_family(
        path, device=settings.device, quantization=settings.quantization, max_context=settings.max_context
    )


def _load_chatglm(path: Path, settings: Settings) -> LanguageModel:
    from model.language_model import load

    model = load(
        path,
        device=settings.device,
        quantization=settings.quantization,
        kv_cache=settings.kv_cache,
        max_context=settings.max_context,
    )
    model.count_tokens("")  # a tokenizer that is missing is missed now, not at the first question
    for name, prefix in settings.prefixes.items():
        model.load_prefix(name, prefix)
    return model


@contextmanager
def _packages() -> Iterator[None]:
    """A package that is missing becomes a ModelError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(
            f"the package {error.name} is not installed", remedy="run: pip install 'glmbot[model]'"
        ) from error


def _path(settings: Settings) -> Path:
    if settings.path is None:
        raise ModelError("no weights are named", remedy="set model.path")
    return settings.path


def _check_features(settings: Settings, path: Path) -> None:
    """Raise ModelError for what models of other families do not have."""
    if settings.prefixes:
        raise ModelError("only ChatGLM-6B takes prefixes", file=path, remedy="take model.prefixes out")
    if settings.kv_cache in ("int8", "int4"):
        problem = f"only ChatGLM-6B has a KV cache in {settings.kv_cache}"
        raise ModelError(problem, file=path, remedy="set model.kv_cache to auto")
