"""Each kernel alone on a graphics card: seconds, and the share of the bandwidth measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch

from model.bench.random_weights import OF_CODES
from model.kernels.fused import HEAD_SIZE, FixedRows, Fused
from model.kernels.launcher import Launcher
from model.kernels.mma_linear import MmaLinear
from model.kernels.sample import ROW, parameters
from model.kv_cache import PAGE, KVPages, Storage, page_bytes, page_count
from model.mma_tiles import MmaWeight, shapes
from model.types import GenerationParams

SHAPES = {
    "query_key_value": (12_288, 4_096),
    "dense": (4_096, 4_096),
    "dense_h_to_4h": (16_384, 4_096),
    "dense_4h_to_h": (4_096, 16_384),
}
VOCABULARY, HEADS = 130_528, 32
ROWS = (1, 2, 4, 8, 16, 32, 64)
SEQUENCES = (1, 8, 32, 64)
CONTEXTS = (128, 512, 1024, 2048)
STORAGES: tuple[Storage, ...] = ("float16", "int8", "int4")
SAMPLED = 50
Work: TypeAlias = Callable[[], object]


class Timer(Protocol):
    """Seconds that some launches take."""

    def __call__(self, work: Work) -> float: ...


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: the true size on a card, less where only the program itself is tried.

    beyond_cache: bytes that are read in turn, so that no cache holds them from one time to the next.
    """

    shapes: dict[str, tuple[int, int]]
    vocabulary: int
    heads: int
    rows: tuple[int, ...] = ROWS
    sequences: tuple[int, ...] = SEQUENCES
    contexts: tuple[int, ...] = CONTEXTS
    beyond_cache: int = 1 << 28


TRUE_SIZE = Scale(SHAPES, VOCABULARY, HEADS)


@dataclass(frozen=True, slots=True)
class Cell:
    """A measurement: bytes that had to move; wanted: of the bandwidth, or seconds at most."""

    name: str
    seconds: float
    nbytes: int
    share: float | None = None
    least_share: float | None = None
    most_seconds: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is what is wanted; None where nothing is."""
        if self.least_share is not None and self.share is not None:
            return self.share >= self.least_share
        return None if self.most_seconds is None else self.seconds <= self.most_seconds


class CardTimer:
    """Captures launches into a graph, so that the host is not measured, and takes the median of replays."""

    def __init__(self, replays: int = 15) -> None:
        self._replays = replays

    def __call__(self, work: Work) -> float:
        """Of one time."""
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        graph.replay()
        times = list[float]()
        for _ in range(self._replays):
            begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return float(np.median(times))


def once(work: Work) -> float:
    """A `Timer` that does it once."""
    began = perf_counter()
    work()
    return perf_counter() - began


def copy_bandwidth(timer: Timer, device: torch.device, nbytes: int = 1 << 30) -> float:
    """Bytes a second, read and written, of a copy within the card's memory."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / timer(lambda: target.copy_(source))


def planned(scale: Scale = TRUE_SIZE) -> Iterator[str]:
    """The names of all cells, as they would be measured."""
    for name in scale.shapes:
        yield from (f"{name}, {rows} rows" for rows in scale.rows)
    yield from (f"head, {rows} rows" for rows in scale.rows)
    for storage in STORAGES:
        for sequences in scale.sequences:
            for tokens in scale.contexts:
                yield f"attention {storage}, {sequences} x {tokens}"
    yield f"sample, {SAMPLED} rows"


def measure(
    launcher: Launcher, device: torch.device, timer: Timer, bandwidth: float, scale: Scale = TRUE_SIZE
) -> Iterator[Cell]:
    """All cells; bandwidth: bytes a second that count as the whole."""
    for cell in _cells(launcher, device, timer, scale):
        share = cell.nbytes / cell.seconds / bandwidth if cell.nbytes else None
        yield Cell(cell.name, cell.seconds, cell.nbytes, share, cell.least_share, cell.most_seconds)


def _cells(launcher: Launcher, device: torch.device, timer: Timer, scale: Scale) -> Iterator[Cell]:
    linear, fused = MmaLinear(launcher, device), Fused(launcher, device)
    for name, (out, columns) in scale.shapes.items():
        for rows in scale.rows:
            yield _linear(linear, timer, scale, device, name, out, columns, rows)
    for rows in scale.rows:
        yield _head(linear, timer, scale, device, rows)
    for storage in STORAGES:
        for sequences in scale.sequences:
            for tokens in scale.contexts:
                yield _attention(fused, timer, scale, device, storage, sequences, tokens)
    yield _sample(fused, timer, scale, device)


def _linear(
    linear: MmaLinear,
    timer: Timer,
    scale: Scale,
    device: torch.device,
    name: str,
    out: int,
    columns: int,
    rows: int,
) -> Cell:
    weights = _copies(scale, lambda: random_mma(4, 64, out, columns, device))
    x = torch.randn(rows, columns, device=device).half()
    bias = torch.zeros(out, dtype=torch.float16, device=device)
    seconds = timer(lambda: [linear.sums(x, weight, bias) for weight in weights]) / len(weights)
    least = 0.8 if rows <= 8 else 0.7 if rows == 16 else None
    return Cell(f"{name}, {rows} rows", seconds, _nbytes(weights[0]) + x.nbytes, least_share=least)


def _head(linear: MmaLinear, timer: Timer, scale: Scale, device: torch.device, rows: int) -> Cell:
    _, columns = next(iter(scale.shapes.values()))
    weights = _copies(scale, lambda: random_mma(8, columns, scale.vocabulary, columns, device))
    x = torch.randn(rows, columns, device=device).half()
    seconds = timer(lambda: [linear.logits(x, weight) for weight in weights]) / len(weights)
    logits = 4 * rows * scale.vocabulary
    least = 0.85 if rows <= 8 else None
    return Cell(f"head, {rows} rows", seconds, _nbytes(weights[0]) + x.nbytes + logits, least_share=least)


def _attention(
    fused: Fused,
    timer: Timer,
    scale: Scale,
    device: torch.device,
    storage: Storage,
    sequences: int,
    tokens: int,
) -> Cell:
    each = page_count(tokens)
    nbytes = sequences * tokens * page_bytes(1, scale.heads, HEAD_SIZE, storage) // PAGE
    layers = max(1, min(28, scale.beyond_cache // nbytes))
    pages = KVPages(
        sequences * each,
        layers=layers,
        heads=scale.heads,
        head_size=HEAD_SIZE,
        storage=storage,
        device=device,
    )
    clear(pages)
    tables = torch.randperm(sequences * each, device=device).int()  # pages lie anywhere
    rows = torch.tensor([(row * each, tokens) for row in range(sequences)], dtype=torch.int32, device=device)
    batch = FixedRows(pages, torch.zeros(sequences, dtype=torch.int64, device=device), tables, rows, tokens)
    query = torch.randn(sequences, scale.heads, HEAD_SIZE, device=device).half()
    seconds = timer(lambda: [fused.attend(query, batch, layer) for layer in range(layers)]) / layers
    least = 0.75 if sequences * tokens >= 32 * PAGE * 32 else None  # less is over before a card is at work
    return Cell(f"attention {storage}, {sequences} x {tokens}", seconds, nbytes, least_share=least)


def _sample(fused: Fused, timer: Timer, scale: Scale, device: torch.device) -> Cell:
    rows = np.zeros(SAMPLED, ROW)
    rows[:] = parameters(GenerationParams(), 0.5)
    there = torch.from_numpy(rows.view(np.int32)).to(device)
    logits = 4 * torch.randn(SAMPLED, scale.vocabulary, device=device)
    seen = torch.zeros(1, -(-scale.vocabulary // 32), dtype=torch.int32, device=device)
    tokens = torch.zeros(SAMPLED, dtype=torch.int32, device=device)
    seconds = timer(lambda: fused.sample(logits, there, seen, tokens, scale.vocabulary, 5))
    return Cell(f"sample, {SAMPLED} rows", seconds, 0, most_seconds=60e-6)


def clear(pages: KVPages) -> None:
    """Zeros, where anything might lie that is no number."""
    for tensor in (pages.data, pages.scale, pages.zero):
        if tensor is not None:
            tensor.zero_()


def random_mma(bits: int, group: int, out: int, columns: int, device: torch.device) -> MmaWeight:
    """Any integers, with scales that keep outputs near 1."""
    kind: Literal[4, 8] = 4 if bits == 4 else 8
    packed, scale = shapes(kind, group, out, columns)
    codes = torch.randint(0, 256, packed, dtype=torch.uint8, device=device)
    factor = 1.0 / columns**0.5 / OF_CODES[kind]
    return MmaWeight(
        kind, group, out, columns, codes, torch.full(scale, factor, dtype=torch.float16, device=device)
    )


def _copies(scale: Scale, make: Callable[[], MmaWeight]) -> list[MmaWeight]:
    first = make()
    return [first, *(make() for _ in range(min(27, scale.beyond_cache // _nbytes(first))))]


def _nbytes(weight: MmaWeight) -> int:
    return weight.packed.nbytes + weight.scale.nbytes
