"""`glmbot model plan`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.options import MemoryOption, PrefixOption, QuantizationOption, prefix_paths
from model.sizes import size_text
from model.types import KVType, ModelError, Quantization

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
            help="Of a graphics card, as it is sold: 2^30 bytes each (default: no card, what --memory says).",
        ),
    ] = None,
    memory: MemoryOption = None,
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
    prefix: PrefixOption = None,
) -> None:
    """Tell whether so many users fit into memory at once, and how many do; reads no weights.

    Exit code 1, and what fits instead, where they do not.
    """
    import torch

    from model.description import scheme_text
    from model.kv_cache import choose_storage
    from model.language_model import choose_device, choose_dtype
    from model.memory import CUDA_BYTES, Budget, available
    from model.prefix import prefix_length

    if vram is not None and memory is not None:
        raise ModelError("--vram and --memory do not go together", remedy="give one of them")
    device = choose_device("auto")
    dtype = choose_dtype("auto", device) if vram is None else torch.float16
    config, scheme, weights = _model(path, quantization, head, dtype)
    lengths = tuple(prefix_length(file, config) for file in prefix_paths(prefix or ()).values())
    budget, storage = Budget(config, weights, dtype, None, lengths), choose_storage(kv, exact=False)
    if vram is not None:
        card = int(vram * 2**30)
        budget = replace(budget, memory=card - CUDA_BYTES)
        told = f"{size_text(card)}, less {size_text(CUDA_BYTES)} for CUDA itself"
    elif memory is not None:
        budget = replace(budget, memory=int(memory * 1e9))
        told = f"{size_text(int(memory * 1e9))}, as --memory says"
    elif (free := available(device)) is not None:
        share = budget.share(free, storage, context)
        budget = replace(budget, memory=share)
        told = (
            f"{size_text(share)} of {size_text(free)} available:"
            " what a server takes without --memory, a bot without model.memory"
        )
    else:
        told = "unknown"
    wanted = budget.whole(storage, context, users)
    rows = [("memory", told)]
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


def _rows(budget: Budget, wanted: MemoryPlan, scheme: str) -> Iterator[tuple[str, str]]:
    from model.memory import RESERVED, kv_name, users_text

    yield "weights", f"{size_text(wanted.weights)}: {scheme}"
    for storage in _SHOWN:
        cache = budget.whole(storage, wanted.context, wanted.users).kv_cache
        most = budget.most_users(storage, wanted.context)
        fit = "" if most is None else f"; {most:,} fit"
        told = users_text(wanted.users, wanted.context)
        yield f"KV cache, {kv_name(storage)}", f"{size_text(cache)} for {told}{fit}"
    if wanted.prefixes:
        yield "prefixes", size_text(wanted.prefixes)
    yield "workspace", size_text(wanted.workspace)
    if wanted.reserve:
        yield "reserve", f"{size_text(wanted.reserve)}, {RESERVED} %"
    yield f"total, {kv_name(wanted.storage)}", size_text(wanted.total)
