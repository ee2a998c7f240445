"""`glmbot model`: download, convert, describe, try out and measure models for this process."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from model.bench.cli import bench_engine, bench_gpu
from model.http.cli import key, serve
from model.options import (
    DeviceOption,
    KVOption,
    MaxContextOption,
    MaxNewTokensOption,
    QuantizationOption,
    Settings,
)
from model.plan_cli import plan
from model.sizes import Progress, size_text
from model.terminal import console, log_to_stderr
from model.types import Device, GenerationParams, ModelError, Quantization


class Commands(TyperGroup):
    """Says which package of the extra [model] is missing, and keeps warnings of others' code to itself."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises ModelError, which `glmbot` tells in one line with exit code 1."""
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            problem = f"the package {error.name} is not installed"
            raise ModelError(problem, remedy="run: pip install 'glmbot[model]'") from error


app = typer.Typer(
    cls=Commands,
    help="Download, convert, describe, try out and measure models for this process.",
    no_args_is_help=True,
)
Source = Annotated[Path, typer.Argument(help="A folder or file in any published form.", metavar="SOURCE")]
Target = Annotated[
    Path, typer.Argument(help="A folder for glmbot.safetensors, or NAME.safetensors.", metavar="TARGET")
]
GroupSize = Annotated[int, typer.Option("--group-size", min=2, help="Columns that share an INT4 scale.")]
NoSearch = Annotated[bool, typer.Option("--no-search", help="Plain scales: faster, 1 to 2 dB worse.")]
Hqq = Annotated[bool, typer.Option("--hqq", help="INT4 with zero-points instead of searched scales.")]
Head = Annotated[
    Literal["auto", "int8", "float16"],
    typer.Option("--head", help="Of the embedding, which is the output matrix too. auto: int8 if quantised."),
]
LayoutOption = Annotated[
    Literal["auto", "rows", "tiles16", "mma16"],
    typer.Option(
        "--layout", help="Order of integers: rows, tiles16 for CPUs, mma16 for cards. auto: for this machine."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at the target.")]


@app.command()
def download(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")] = "THUDM/chatglm-6b",
    to: Annotated[Path | None, typer.Option("--to", help="Folder (default: ./NAME).")] = None,
    mirror: Annotated[
        str | None, typer.Option("--mirror", help="Address of a hub like ModelScope: https://modelscope.cn")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch weights, configuration and tokenizer; never code.

    HF_ENDPOINT names a mirror of the Hugging Face hub, HF_TOKEN a token for it. Run it again to go on where
    it was cut off. Sizes and SHA-256 are checked. ModelScope has ChatGLM-6B as ZhipuAI/ChatGLM-6B.
    """
    from model.download import download

    with _bar("Downloading") as progress:
        folder = download(repo, to, mirror=mirror, revision=revision, progress=progress)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    typer.echo(f"{folder}: {size_text(size)}")


@app.command()
def convert(
    source: Source,
    target: Target,
    quantization: QuantizationOption = "int4",
    group_size: GroupSize = 64,
    no_search: NoSearch = False,
    hqq: Hqq = False,
    head: Head = "auto",
    layout: LayoutOption = "auto",
    device: DeviceOption = "auto",
    force: Force = False,
) -> None:
    """Write weights in any published form as one packed file, which loads at once.

    Floats are quantised, or with --quantization none kept in the type they have; published integers are kept
    to the bit. A packed file can be brought into another layout, without loss. Run it again to go on where it
    was cut off.
    """
    options = {"group_size": group_size, "search": not no_search, "hqq": hqq, "head": head, "force": force}
    _write_packed(source, target, device, quantization=quantization, layout=layout, **options)


@app.command()
def quantize(
    source: Source,
    target: Target,
    bits: Annotated[Literal["4", "8"], typer.Option("--bits", help="Bits of a weight.")] = "4",
    group_size: GroupSize = 64,
    no_search: NoSearch = False,
    hqq: Hqq = False,
    head: Head = "auto",
    device: DeviceOption = "auto",
    force: Force = False,
) -> None:
    """Convert float weights to integers, and say what that costs: the signal-to-noise ratio by matrix.

    Refuses what is quantised already; `convert` keeps such weights as they are.
    """
    from model.convert import open_published
    from model.packed import Packed
    from model.quality import weight_snr

    checkpoint = open_published(source)
    if checkpoint.form != "float":
        raise ModelError(f"is {checkpoint.form} already", file=source, remedy="name the float weights")
    options = {"group_size": group_size, "search": not no_search, "hqq": hqq, "head": head, "force": force}
    quantization: Quantization = "int4" if bits == "4" else "int8"
    file = _write_packed(source, target, device, quantization=quantization, **options)
    with _bar("Comparing") as progress:
        ratios = weight_snr(checkpoint, Packed.open(file), progress)
    typer.echo("signal-to-noise ratio of the weights:")
    for kind, decibels in ratios.items():
        typer.echo(f"  {kind:<16} {decibels:6.2f} dB")


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A folder or file of any model.", metavar="PATH")],
    device: DeviceOption = "auto",
    quantization: QuantizationOption = "int4",
    kv_cache: KVOption = "auto",
) -> None:
    """Tell form, sizes, vocabulary, tokenizer, quantisation and the memory needed; reads no weights.

    Exit code 1, and what is wrong, for what would not load.
    """
    from model.description import describe

    rows = list(describe(path, device=device, quantization=quantization, kv_cache=kv_cache))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")


@app.command("make-random")
def make_random(
    path: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="PATH")],
    size: Annotated[Literal["tiny", "6b"], typer.Option("--size", help="6b: the true size.")] = "tiny",
    form: Annotated[
        Literal["safetensors", "fp16-shards", "int8", "int4", "early", "slim", "packed"],
        typer.Option("--form", help="The published form to write."),
    ] = "safetensors",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same weights.")] = 0,
) -> None:
    """Write a complete ChatGLM of random weights, to try everything without a download.

    tiny comes with a tokenizer of its own: text goes in, nonsense comes out.
    """
    from model.random_model import make_random

    with _unwinding(), _bar("Writing") as progress:
        make_random(path, size, form, seed, progress)
    written = sum(file.stat().st_size for file in path.iterdir())
    typer.echo(f"{path}: {size_text(written)}")


@app.command()
def bench(
    path: Annotated[
        Path | None,
        typer.Argument(help="A packed file or its folder (default: random weights of the true size)."),
    ] = None,
    device: Annotated[Literal["cpu"], typer.Option("--device", help="Where it runs.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="Default: the cores there are.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there.", metavar="FILE")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw a roofline there, a PNG.", metavar="FILE")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="4 layers, told as 28, measured less often: two minutes, 1 GB.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure llama.cpp and chatglm.cpp, too.")
    ] = True,
    peer_python: Annotated[
        str,
        typer.Option(
            "--peer-python",
            help="The Python that has them (default: this one).",
            metavar="PATH",
            show_default=False,
        ),
    ] = sys.executable,
) -> None:
    """Measure this machine and the model on it: what share of the machine's limits it reaches.

    Tokens a second of batches and of prompts, time to the first token, load, memory; beside llama.cpp and
    chatglm.cpp where they are installed, with random weights of the same shapes in their own files. All such
    files stay in ~/.cache/glmbot/bench for the next run, 3.5 GB each.
    """
    from model.bench.plot import check_plot
    from model.bench.plot import plot as draw
    from model.bench.run import Options, run

    log_to_stderr()
    if plot is not None:
        check_plot()
    if threads is not None:
        os.environ["GLMBOT_CPU_THREADS"] = str(threads)  # for the processes that it starts as well
    options = Options(path, quick=quick, repeat=3 if quick else 5, peer_python=peer_python if peers else None)
    with console().status("Measuring") as status:
        report = run(options, status.update)
    for line in report.lines():
        typer.echo(line)
    if json is not None:
        report.write(json)
    if plot is not None:
        draw(report, plot)


@app.command()
def chat(
    path: Annotated[Path, typer.Argument(help="A folder or file of any model.", metavar="PATH")],
    device: DeviceOption = "auto",
    quantization: QuantizationOption = "int4",
    kv_cache: KVOption = "auto",
    prefix: Annotated[Path | None, typer.Option("--prefix", help="A P-Tuning v2 checkpoint.")] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0: always the likeliest.")
    ] = 0.95,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Mass of tokens drawn from.")
    ] = 0.7,
    max_new_tokens: MaxNewTokensOption = 512,
    max_context: MaxContextOption = 2048,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes answers repeatable.")] = None,
) -> None:
    """Talk with a model here, a line a question: `clear` forgets the talk, `stop` ends it.

    Ctrl-C breaks an answer off and keeps what there is of it in the talk; between answers it ends.
    """
    from model.chat_console import talk
    from model.local import load_backend

    log_to_stderr()
    max_new_tokens = min(max_new_tokens, max_context // 2)  # the rest is for questions
    prefixes = {} if prefix is None else {"chat": prefix}
    began = monotonic()
    settings = Settings(path, device, quantization, kv_cache, max_context, max_new_tokens, prefixes)
    with console().status("Loading"):
        model = load_backend(settings)
    typer.echo(f"{model.name}, loaded in {monotonic() - began:.1f} s; clear forgets, stop ends", err=True)
    params = GenerationParams(
        max_new_tokens, temperature, top_p, seed=seed, prefix="chat" if prefixes else None
    )
    try:
        talk(model, params)
    finally:
        model.close()


app.command()(serve)
app.command()(plan)
app.command()(bench_engine)
app.command()(bench_gpu)
app.add_typer(key, name="key")


def _write_packed(source: Path, target: Path, device: Device, **options: Any) -> Path:
    """Convert with these options of `convert`, and tell sizes, time and memory."""
    from model.convert import convert
    from model.description import scheme_text
    from model.language_model import choose_device
    from model.memory import peak
    from model.packed import Packed
    from model.tensor_file import weight_files
    from model.tokenizer import find_tokenizer

    began = monotonic()
    with _bar("Converting") as progress:
        file = convert(source, target, device=choose_device(device), progress=progress, **options)
    before = sum(part.stat().st_size for part in weight_files(source))
    after = file.stat().st_size
    packed = Packed.open(file)
    kind = f"{scheme_text(packed.scheme)}; layout {packed.layout}"
    typer.echo(f"{file}: {kind}, {size_text(before)} -> {size_text(after)}")
    memory = peak()
    told = "" if memory is None else f", peak memory {size_text(memory)}"
    typer.echo(f"{monotonic() - began:.1f} s{told}")
    if find_tokenizer(file.parent) is None:
        typer.echo(f"no tokenizer: copy ice_text.model into {file.parent}, text needs it")
    return file


@contextmanager
def _unwinding() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that nothing half written stays behind."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr; gives what takes the bytes done and their total."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = console()
    with Bar(
        *columns, TimeRemainingColumn(), console=shown, transient=True, disable=not shown.is_terminal
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
