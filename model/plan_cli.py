"""`glmbot model plan`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.options import QuantizationOption
from model.sizes import size_text
from model.types import KVType, Quantization

if TYPE_CHECKING:
    import torch

    from model.config import ChatGLMConfig
    from model.kv_cache import Storage
    from model.loading import Head
    from model.memory import Budget, MemoryPlan
    from model.packed import Scheme

_SHOWN: tuple[Storage, ...] = ("float16", "int8", "int4")


def plan(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A folder or file of ChatGLM-6B (default: the model as `convert` packs it).", metavar="PATH"
        ),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(
            "--vram",
            min=1,
            max=100_000,
            metavar="GB",
            help="Of a graphics card, as it is sold: 2^30 bytes each (default: what a bot takes of what is"
            " available here).",
        ),
    ] = None,
    users: Annotated[
        int, typer.Option("--users", min=1, max=1_000_000, help="Whose answers are made at once.")
    ] = 1,
    context: Annotated[
        int,
        typer.Option("--context", min=64, max=1_000_000, help="Tokens of prompt and answer of each of them."),
    ] = 2048,
    kv: Annotated[
        KVType, typer.Option("--kv", "--kv-cache", help="How keys and values are stored. auto: fp16.")
    ] = "auto",
    head: Annotated[
        Literal["auto", "int8", "float16"],
        typer.Option("--head", help="Of the embedding, as for `convert`. auto: int8 if quantised."),
    ] = "auto",
    quantization: QuantizationOption = "int4",
) -> None:
    """Tell whether so many users fit into memory at once, and how many do; reads no weights.

    Exit code 1, and what fits instead, where they do not.
    """
    import torch

    from model import memory
    from model.description import scheme_text
    from model.kv_cache import choose_storage
    from model.language_model import choose_device, choose_dtype

    if vram is None:
        device = choose_device("auto")
        dtype, free = choose_dtype("auto", device), memory.available(device)
    else:
        dtype, free = torch.float16, int(vram * 2**30) - memory.CUDA_BYTES
    config, scheme, weights = _model(path, quantization, head, dtype)
    budget, storage = memory.Budget(config, weights, dtype, free), choose_storage(kv, exact=False)
    if vram is None and free is not None:
        budget = replace(budget, memory=budget.share(free, storage, context))
    wanted = budget.whole(storage, context, users)
    rows = [("memory", _memory_text(budget, free if vram is None else None))]
    rows += _rows(budget, wanted, scheme_text(scheme))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")
    if not budget.holds(wanted):
        raise budget.refusal(wanted)


def _model(
    path: Path | None, quantization: Quantization, head: Head, dtype: torch.dtype
) -> tuple[ChatGLMConfig, Scheme, int]:
    """Its configuration, how its matrices are stored, and their bytes; None: of the published floats."""
    import torch

    from model.config import ChatGLMConfig
    from model.loading import Reader, Recipe, estimate, open_source
    from model.memory import weight_bytes
    from model.packed import Scheme

    recipe = Recipe(quantization, head=head)
    if path is None:
        config, scheme = ChatGLMConfig(), recipe.scheme(Scheme(None, group_size=None, head_bits=None))
        return config, scheme, weight_bytes(config, scheme, lambda _: torch.float16)
    reader = Reader(open_source(path), recipe, dtype)
    return reader.source.config, reader.scheme, estimate(reader, dtype=dtype).weights


def _memory_text(budget: Budget, free: int | None) -> str:
    """free: what is available here, None for a card."""
    from model.memory import CUDA_BYTES

    if budget.memory is None:
        return "unknown"
    if free is None:
        return f"{size_text(budget.memory + CUDA_BYTES)}, less {size_text(CUDA_BYTES)} for CUDA itself"
    return f"{size_text(budget.memory)} of {size_text(free)} available: what a bot takes without model.memory"


def _rows(budget: Budget, wanted: MemoryPlan, scheme: str) -> Iterator[tuple[str, str]]:
    from model.memory import RESERVED, kv_name, users_text

    yield "weights", f"{size_text(wanted.weights)}: {scheme}"
    for storage in _SHOWN:
        cache = budget.whole(storage, wanted.context, wanted.users).kv_cache
        most = budget.most_users(storage, wanted.context)
        fit = "" if most is None else f"; {most:,} fit"
        told = users_text(wanted.users, wanted.context)
        yield f"KV cache, {kv_name(storage)}", f"{size_text(cache)} for {told}{fit}"
    yield "workspace", size_text(wanted.workspace)
    if wanted.reserve:
        yield "reserve", f"{size_text(wanted.reserve)}, {RESERVED} %"
    yield f"total, {kv_name(wanted.storage)}", size_text(wanted.total)
