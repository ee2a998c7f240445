"""What kernels do at the true size, from what they did on the host, and how fast a card can be at that.

Threads of a block all do the same, and blocks differ in place only, so a few blocks are run and counted and
the rest are multiplied. A card then needs at least the time of its memory, of its matrix units and of issuing
the instructions that were counted (addresses and loops, which the host does not count, come on top).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model.bench.card_kernels import HEADS, SHAPES, VOCABULARY, random_mma
from model.kernels.fused import HEAD_SIZE, Fused
from model.kernels.mma_linear import MmaLinear
from model.kv_cache import PAGE, KVBatch, KVCache, KVPages, Storage, page_bytes
from tests.cuda.emulator import Counts, Emulator

CPU = torch.device("cpu")
LAYERS = 28


@dataclass(frozen=True, slots=True)
class Machine:
    """A card: GB/s, TFLOP/s of halves with float sums, multiprocessors, GHz; as its maker tells them."""

    name: str
    bandwidth: float
    tensor: float
    multiprocessors: int
    clock: float


MACHINES = (
    Machine("RTX 3060", 360, 25.5, 28, 1.78),
    Machine("RTX 3090", 936, 71, 82, 1.70),
    Machine("RTX 4090", 1008, 165, 128, 2.52),
    Machine("RTX 5090", 1792, 209.5, 170, 2.41),
    Machine("H100", 3350, 989, 132, 1.83),
)


@dataclass(frozen=True, slots=True)
class Work:
    """Of a launch: bytes from memory, operations of matrix units, instructions of warps."""

    kernel: str
    bytes: float
    flops: float
    instructions: float

    def seconds(self, machine: Machine) -> float:
        """The least that it takes."""
        return max(self.by_memory(machine), self.by_tensor(machine), self.by_issue(machine))

    def by_memory(self, machine: Machine) -> float:
        return self.bytes / (machine.bandwidth * 1e9)

    def by_tensor(self, machine: Machine) -> float:
        return self.flops / (machine.tensor * 1e12)

    def by_issue(self, machine: Machine) -> float:
        """Four instructions a cycle and multiprocessor."""
        return self.instructions / (4 * machine.multiprocessors * machine.clock * 1e9)


def instructions(counts: Counts) -> float:
    """Of warps: what was counted of threads, loads and stores as the wide ones that most of them are."""
    alone = counts.mma + counts.ldmatrix + counts.fma + counts.half2 + counts.logic + counts.special
    memory = (counts.loaded + counts.stored) / 4 + counts.copied / 16
    return (alone + counts.shuffle + counts.barrier + counts.atomic + memory) / 32


def linear_work(emulator: Emulator, name: str, rows: int) -> tuple[Work, Counts]:
    """One matrix for some rows, and what two blocks of outputs did."""
    bits = 8 if name == "head" else 4
    out, columns = (VOCABULARY, 4096) if name == "head" else SHAPES[name]
    weight, x = (
        random_mma(bits, 64 if bits == 4 else columns, 128, columns, CPU),
        torch.randn(rows, columns).half(),
    )
    with emulator.counted() as counted:
        if name == "head":
            MmaLinear(emulator, CPU).logits(x, weight)
        else:
            MmaLinear(emulator, CPU).sums(x, weight, torch.zeros(128).half())
    (counts,) = counted.values()
    share = out / 128
    read = (weight.packed.nbytes + weight.scale.nbytes) * share
    return Work(name, read, counts.mma / 32 * 4096 * share, instructions(counts) * share), counts


def attention_work(emulator: Emulator, storage: Storage, rows: int, tokens: int) -> tuple[Work, Counts]:
    """A layer's attention of some sequences of the same length, and what one head of one of them did."""
    pages = KVPages(tokens // 16 + 1, layers=1, heads=1, head_size=128, storage=storage)
    cache = KVCache(pages)
    batch = KVBatch([cache], [tokens - 1])
    pages.write(0, batch.slots, *(torch.randn(tokens - 1, 1, 128).half() for _ in range(2)))
    batch.commit()
    with emulator.counted() as counted:
        Fused(emulator, CPU).attention(torch.randn(1, 1, 128).half(), KVBatch([cache], [1]), 0)
    (counts,) = [counts for kernel, counts in counted.items() if kernel.startswith("attn_decode")]
    read = tokens * page_bytes(1, HEADS, HEAD_SIZE, storage) // PAGE
    return Work(f"attention, {storage}", read * rows, 0, instructions(counts) * HEADS * rows), counts


def step_work(emulator: Emulator, rows: int, tokens: int, storage: Storage) -> Iterator[tuple[int, Work]]:
    """How often which launch is in a step of `rows` answers with contexts of `tokens`."""
    for name in SHAPES:
        yield LAYERS, linear_work(emulator, name, rows)[0]
    yield LAYERS, attention_work(emulator, storage, rows, tokens)[0]
    yield 1, linear_work(emulator, "head", rows)[0]


def tokens_per_second(work: list[tuple[int, Work]], rows: int, machine: Machine) -> float:
    """At the limit."""
    return rows / sum(times * one.seconds(machine) for times, one in work)
