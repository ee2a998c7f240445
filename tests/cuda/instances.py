"""All kernels that a ChatGLM-6B can need, and what is planned for each: threads, shared memory, company."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from model.kernels.launcher import Argument, Grid
from model.kernels.mma_linear import MmaLinear, linear_shared
from model.kernels.sample import SHARED, THREADS
from model.mma_tiles import MmaWeight, shapes

ARCHS = (75, 86, 89, 90, 120)
_SHARED = {75: 64, 86: 100, 89: 100, 90: 228, 120: 100}
"""KiB of a multiprocessor."""
_THREADS = {75: 1024, 86: 1536, 89: 1536, 90: 2048, 120: 1536}
_REGISTERS = 65_536
DEFAULT = "int4"
SCHEMES: dict[str, tuple[Literal[4, 8], int, bool]] = {
    "int4": (4, 64, False),
    "int4 with zeros": (4, 64, True),
    "int4 of 32 with zeros": (4, 32, True),
    "int4 of 32": (4, 32, False),
    "int8": (8, 4096, False),
}


@dataclass(frozen=True, slots=True)
class Card:
    """A `Launcher` that only says what it is."""

    arch: int
    multiprocessors: int = 82
    name: str = "a card"

    def prepare(self, kernels: Iterable[str]) -> None: ...

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Threads of a block, its dynamic shared memory in bytes, blocks that a multiprocessor should hold."""

    threads: int
    shared: int
    blocks: int


def matrix(bits: Literal[4, 8], group: int, zeros: bool) -> MmaWeight:
    """A matrix without numbers."""
    out = columns = 4096
    packed, scale = shapes(bits, group, out, columns)
    half = torch.empty(scale, dtype=torch.float16, device="meta")
    codes = torch.empty(packed, dtype=torch.uint8, device="meta")
    return MmaWeight(bits, group, out, columns, codes, half, half if zeros else None)


def kernels(arch: int) -> Iterator[str]:
    """The names of all; of the schemes that are not the default, those for the fewest and the most rows."""
    linear = MmaLinear(Card(arch), torch.device("meta"))
    for scheme in SCHEMES:
        names = list(linear.kernels(matrix(*SCHEMES[scheme])))
        yield from names if scheme == DEFAULT else (*names[:3], *names[-2:])
    yield from linear.head_kernels()
    for storage in range(3):
        yield from (f"attn_decode<{storage}>", f"rope_kv<{storage}>")
    yield from ("attn_combine", "layer_norm", "add_bias<false>", "add_bias<true>", "sample")


def usual() -> Iterator[str]:
    """Those that the tests on the host use most; others are compiled when they are asked for."""
    linear = MmaLinear(Card(86), torch.device("meta"))
    for scheme in SCHEMES:
        for name in linear.kernels(matrix(*SCHEMES[scheme])):
            if not name.startswith("linear_gelu") or scheme == DEFAULT:
                yield name
    yield from linear.head_kernels()
    for storage in range(3):
        yield from (f"attn_decode<{storage}>", f"rope_kv<{storage}>")
    yield from ("attn_combine", "layer_norm", "add_bias<false>", "add_bias<true>", "sample")


def plan(kernel: str, arch: int) -> Plan:
    """What is planned for a kernel."""
    name, numbers = kernel.partition("<")[0], [int(number) for number in re.findall(r"\d+", kernel)]
    if name in ("linear_sums", "linear_gelu", "head_logits"):
        bits = 8 if name == "head_logits" else numbers[0]
        *_, tiles, stages = numbers
        return Plan(256, linear_shared(bits, tiles, stages), _linear_blocks(kernel, bits, tiles, arch))
    threads, shared, blocks = {
        "embed": (256, 0, 4),
        "dequantize": (256, 8 * 16 * 72 * 2, 3),
        "attn_decode": (256, 8 * 130 * 4, 2),
        "attn_combine": (128, 0, 8),
        "rope_kv": (128, 0, 6),
        "layer_norm": (512, 4 * (4096 + 16), 1),
        "add_bias": (256, 0, 3),
        "sample": (THREADS, SHARED, 1),
    }[name]
    return Plan(threads, shared, blocks)


def occupancy(registers: int, plan: Plan, arch: int) -> int:
    """Blocks that a multiprocessor holds, registers in eights, with the system's KiB of shared memory."""
    by_registers = _REGISTERS // (-(-registers // 8) * 8 * plan.threads)
    by_shared = _SHARED[arch] * 1024 // (plan.shared + 1024)
    return min(by_registers, by_shared, _THREADS[arch] // plan.threads)


def _linear_blocks(kernel: str, bits: int, tiles: int, arch: int) -> int:
    zeros = "true" in kernel.split(",")[2] if "linear" in kernel else False
    if bits == 8:  # the head, twice the bytes
        if arch < 80:
            return 2 if tiles <= 3 else 1
        return 3 if tiles == 1 else 2 if tiles <= 6 else 1
    planned = {1: 4, 2: 3}.get(tiles, 2) - zeros
    return 1 if arch < 80 and tiles > 5 else planned
