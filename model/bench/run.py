"""The whole benchmark: what is measured, and in which order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median

import torch

from model.bench.figures import Figure
from model.bench.health import ASKED, answer_times
from model.bench.loading import Loaded, load_once
from model.bench.network import Network, products
from model.bench.peers import KINDS, Peer, missing, peer_file
from model.bench.probe import BUFFER, Probe, cpu_name
from model.bench.random_weights import cache_folder, random_packed
from model.bench.report import OURS, Report
from model.bench.rounds import BATCHES, PROMPTS, Rounds
from model.bench.subject import Subject
from model.bench.targets import HEALTH, LOAD, targets
from model.config import ChatGLMConfig
from model.kernels.library import NoLibrary, default_threads, open_library
from model.language_model import LanguageModel, load
from model.types import ModelError

LAYERS = 28
"""Of ChatGLM-6B."""
QUICK_LAYERS = 4
MACHINE = "machine"
"""The subject of what the probes find."""

Say = Callable[[str], None]
"""Gets a line on what is going on."""


@dataclass(frozen=True, slots=True)
class Options:
    """path: None makes random weights, of a few layers where `quick`. peer_python: None runs no peers.

    repeat: measurements of each figure, but for the longest; buffer: bytes that the probe reads; asked: how
    often /healthz is.
    """

    path: Path | None = None
    quick: bool = False
    peer_python: str | None = sys.executable
    repeat: int = 5
    batches: Sequence[int] = BATCHES
    prompts: Sequence[int] = PROMPTS
    buffer: int = BUFFER
    asked: int = ASKED
    folder: Path | None = None
    """For files of random weights; None is a cache of the user."""


def run(options: Options, say: Say) -> Report:
    """Measure everything. Raises ModelError where the model itself cannot be measured."""
    folder = options.folder or cache_folder()
    report = Report(cpu_name(), default_threads())
    torch.set_num_threads(report.threads)
    path = options.path or _random_model(folder, options.quick, say)
    loads = _loads(path, options, say)
    model = load(path, device="cpu")
    config, layers = model.config, model.config.num_layers
    report.model, report.kernels = model.name, model.kernels
    report.layers = (layers, layers if options.path else LAYERS)
    with ExitStack() as stack:
        stack.callback(model.close)
        probe = _probe(options, report, say)
        subjects: list[Subject] = [Network(model.network, model.storage)]
        for peer in _peers(options.peer_python, folder, config, report, say):
            stack.callback(peer.close)
            subjects.append(peer)
        rounds = Rounds(subjects, probe, repeat=options.repeat, layers=report.layers[1])
        for batch in options.batches:
            say(f"decode, batch {batch}")
            report.figures += rounds.decode(batch)
        for tokens in options.prompts:
            say(f"prefill, {tokens} tokens")
            report.figures += rounds.prefill(tokens)
        report.figures += _load_figures(loads)
        say("/healthz")
        report.figures += _health(model, options.asked)
    if products(config) == products(ChatGLMConfig()) and layers == LAYERS:
        report.targets += targets(report, loads)
    return report


def _random_model(folder: Path, quick: bool, say: Say) -> Path:
    layers = QUICK_LAYERS if quick else LAYERS
    size = "1 GB" if quick else "3.5 GB"
    say(f"random weights of {layers} layers in {folder} ({size}; they stay for the next run)")
    return random_packed(folder, layers).parent


def _loads(path: Path, options: Options, say: Say) -> list[Loaded]:
    """Each in a process of its own, the file in the system's cache."""
    say("load")
    count = min(3, options.repeat)
    return [load_once(path, max(options.prompts)) for _ in range(count + 1)][1:]


def _load_figures(loads: Sequence[Loaded]) -> Iterator[Figure]:
    yield Figure(OURS, LOAD, "s", [one.seconds for one in loads])
    peaks = [one.peak / 1e9 for one in loads if one.peak is not None]
    if peaks:
        yield Figure(OURS, "peak memory", "GB", peaks)


def _probe(options: Options, report: Report, say: Say) -> Probe | None:
    """And what it finds before anything else runs; None without the native library."""
    try:
        probe = Probe(open_library(), report.threads, buffer=options.buffer)
    except NoLibrary as error:
        report.notes.append(f"no limits are known: {error}")
        return None
    say("probes")
    for threads in sorted({1, report.threads}):
        name = f"{threads} thread{'s' if threads > 1 else ''}"
        read = [probe.bandwidth(threads) / 1e9 for _ in range(options.repeat)]
        dot = [probe.dot(threads) / 1e9 for _ in range(options.repeat)]
        report.figures.append(Figure(MACHINE, f"read, {name}", "GB/s", read))
        report.figures.append(Figure(MACHINE, f"integer dot products, {name}", "GMAC/s", dot))
    return probe


def _peers(
    python: str | None, folder: Path, config: ChatGLMConfig, report: Report, say: Say
) -> Iterator[Peer]:
    """Those that this Python has; why not the others goes to the notes."""
    for kind in KINDS if python is not None else ():
        assert python is not None
        if why := missing(kind, python):
            report.notes.append(f"without {kind.name}: {why}")
            continue
        try:
            say(f"{kind.name} on random weights in {folder}")
            peer = Peer(kind, python, peer_file(kind, folder, config), config, report.threads)
        except (ModelError, OSError) as error:
            report.notes.append(f"without {kind.name}: {error}")
            continue
        report.notes.append(f"{kind.name} is {peer.version}, Q4_0, random weights of the same shapes")
        yield peer


def _health(model: LanguageModel, asked: int) -> Iterator[Figure]:
    seconds = sorted(asyncio.run(answer_times(model.network, model.storage, asked)))
    yield Figure(OURS, f"{HEALTH}, median", "ms", [1000 * median(seconds)])
    yield Figure(OURS, f"{HEALTH}, p99", "ms", [1000 * seconds[ceil(0.99 * asked) - 1]])
