"""What this machine can do at most, measured with the native library: read memory, multiply integers."""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from model import huge_pages
from model.kernels.library import Library, Pool

BUFFER = 1 << 30
"""Bytes that are read at a time: far more than caches hold."""
READS = 3
"""Of which the median counts."""
ROUNDS = 2_000_000
"""Of dot products: some 10 ms."""


@dataclass(frozen=True, slots=True)
class Limits:
    """bandwidth: bytes a second; macs: integer multiply-accumulates a second."""

    bandwidth: float
    macs: float

    def mean(self, other: Limits) -> Limits:
        """Between two probes."""
        return Limits((self.bandwidth + other.bandwidth) / 2, (self.macs + other.macs) / 2)


class Probe:
    """Probes with as many threads as the model has; the buffer stays for as long as this does."""

    def __init__(self, library: Library, threads: int, *, buffer: int = BUFFER, rounds: int = ROUNDS) -> None:
        self.threads = threads
        self._library = library
        self._rounds = rounds
        self._buffer = huge_pages.empty((buffer,), torch.uint8).fill_(1)
        self._pools = {count: Pool(library, count) for count in {1, threads}}

    def bandwidth(self, threads: int | None = None) -> float:
        """Bytes a second of a sequential read."""
        pool = self._pools[threads or self.threads]
        address, size = self._buffer.data_ptr(), self._buffer.nbytes

        def seconds() -> float:
            taken: float = self._library.c.glm_probe_read(pool.handle, address, size)
            return taken

        return size / median(seconds() for _ in range(READS))

    def dot(self, threads: int | None = None) -> float:
        """Multiply-accumulates of int8 a second, in registers."""
        pool, macs = self._pools[threads or self.threads], ctypes.c_int64()

        def seconds() -> float:
            taken: float = self._library.c.glm_probe_dot(pool.handle, self._rounds, ctypes.byref(macs))
            return taken

        middle = median(seconds() for _ in range(READS))
        return macs.value / middle

    def limits(self) -> Limits:
        """Both, with all threads."""
        return Limits(self.bandwidth(), self.dot())


def cpu_name() -> str:
    """The model of the CPU, as the system tells it."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
