"""`glmbot model bench-engine` and `bench-gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.terminal import console, log_to_stderr
from model.types import ModelError

FAIRNESS, QUICK_FAIRNESS = 300.0, 90.0
QUICK_LAYERS = 4


def bench_engine(
    path: Annotated[
        Path | None,
        typer.Argument(help="A packed file or its folder (default: random weights of the true size)."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there.", metavar="FILE")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="4 layers, and fairness for 90 seconds instead of 300.")
    ] = False,
) -> None:
    """Measure many users at once: what the engine costs, and what each of them gets.

    Its own time for a step, batches beside the bare model, gaps while a long prompt is read, fifty users,
    their shares, and what small keys and values change.
    """
    import asyncio

    from model.bench.engine import measure
    from model.bench.random_weights import cache_folder, random_packed
    from model.language_model import load

    log_to_stderr()
    layers = QUICK_LAYERS if quick else 28
    model = load(path or random_packed(cache_folder(), layers).parent, device="cpu")
    with console().status("Measuring") as status:
        found = asyncio.run(measure(model, QUICK_FAIRNESS if quick else FAIRNESS, status.update))
    for line in found.lines():
        typer.echo(line)
    if json is not None:
        found.write(json)


def bench_gpu(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there.", metavar="FILE")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Only list what would be measured.")] = False,
) -> None:
    """Measure kernels and the whole model on an NVIDIA card, beside its copy bandwidth.

    Each kernel by rows, contexts and KV types; then tokens a second, prompts, the first token and memory, of
    random weights of the true size, beside float16 and the published way.
    """
    import torch

    from model.bench.card import Findings, measure, planned
    from model.bench.card_kernels import CardTimer
    from model.kernels.cuda import open_cuda

    if dry:
        for line in planned():
            typer.echo(line)
        return
    log_to_stderr()
    if not torch.cuda.is_available():
        remedy = "run it where one is; --dry lists what it would measure"
        raise ModelError("there is no graphics card here that PyTorch can use", remedy=remedy)
    device = torch.device("cuda")
    launcher = open_cuda(device)
    found = Findings(launcher.name, launcher.driver)
    measure(found, launcher, device, CardTimer(), lambda line: typer.echo(line, err=True))
    for line in found.lines():
        typer.echo(line)
    if json is not None:
        found.write(json)
