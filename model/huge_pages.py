"""Weights in pages of 2 MiB, where the system has them for who asks: of a mapped file, or of memory.

Weights are read from one end to the other for every token. With pages of 4 KiB the processor looks up an
address every 64 lines, and its prefetching ends there: that takes 10 to 25 % of the bandwidth.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from model.types import ModelError

VARIABLE = "GLMBOT_CPU_WEIGHTS"
"""Says `mapped` or `copied` where the rule of `choose` shall not hold."""
SIZE = 1 << 21
"""Bytes of a huge page on x86-64, and on ARM with base pages of 4 KiB."""
MOST = 0.9
"""Of a mapped file that lies in huge pages: from here on a copy would bring next to nothing."""

_DONTNEED, _HUGEPAGE, _POPULATE_READ = 4, 14, 22
"""Of Linux's madvise; the last one since 5.14."""
_SMAPS = Path("/proc/self/smaps")
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def available() -> bool:
    """Whether the system gives huge pages to who asks (Linux; its administrator may have said `never`)."""
    try:
        return sys.platform == "linux" and "[never]" not in _ENABLED.read_text("ascii")
    except OSError:
        return False


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of any values, aligned to 64 bytes; in huge pages if it fills one. Raises MemoryError."""
    size = prod(shape) * dtype.itemsize
    if size < SIZE or not available():
        return torch.empty(shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, size + SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system does not give {size} bytes") from error
    _advise(memory, _HUGEPAGE)
    values = torch.frombuffer(memory, dtype=torch.uint8)  # it keeps the mapping for as long as it lives
    start = -values.data_ptr() % SIZE
    return values[start : start + size].view(dtype).view(shape)


class MappedFile:
    """A file as memory, mapped privately; the tensors it gives are views that keep the mapping."""

    def __init__(self, file: Path) -> None:
        """Raises OSError, and ValueError for an empty file."""
        self.file = file
        with file.open("rb") as stream:
            self._memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        _advise(self._memory, _HUGEPAGE)

    def __getitem__(self, part: slice) -> bytes:
        """A copy of some bytes."""
        return self._memory[part]

    def __len__(self) -> int:
        return len(self._memory)

    def tensor(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What lies in the file from byte `start` on."""
        values = torch.frombuffer(self._memory, dtype=dtype, count=prod(shape), offset=start)
        return values.view(shape)

    def populate(self) -> float:
        """Bring the file into memory; returns how much of it lies in huge pages, 0 where nobody says.

        Some file systems of Linux can hold files in huge pages (ext4 since 6.16). What such a one holds in
        small pages, because it was written or copied that way, is read once more from the disk.
        """
        share = self._read()
        if 0 < share < MOST:
            _advise(self._memory, _DONTNEED)
            with self.file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            share = self._read()
        return share

    def forget(self, start: int, size: int) -> None:
        """Let go of the pages that a part fills: they count no more, and are read anew if they are used."""
        first, last = (
            -(-start // mmap.PAGESIZE) * mmap.PAGESIZE,
            (start + size) // mmap.PAGESIZE * mmap.PAGESIZE,
        )
        if first < last:
            _advise(self._memory, _DONTNEED, first, last - first)

    def _read(self) -> float:
        """Bring it into memory once."""
        for start in range(0, len(self), 4 * SIZE):  # no thread runs in Python while one of these does
            _advise(self._memory, _POPULATE_READ, start, min(4 * SIZE, len(self) - start))
        return self._huge()

    def _huge(self) -> float:
        """Huge pages among those of the mapping that are in memory."""
        address = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        resident = huge = 0
        inside = False
        for line in _SMAPS.read_text("utf-8", "replace").splitlines() if _SMAPS.exists() else ():
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):  # a range of addresses, with rows about it to follow
                begin, end = (int(part, 16) for part in name.split("-"))
                inside = address <= begin and end < address + len(self) + mmap.PAGESIZE
            elif inside and name == "Rss:":
                resident += int(rest.split()[0])
            elif inside and name == "FilePmdMapped:":
                huge += int(rest.split()[0])
        return huge / resident if resident else 0.0


def choose(populate: Callable[[], float], needed: int, free: int | None) -> tuple[bool, str]:
    """Whether to copy mapped weights into memory in huge pages, and why.

    populate: that of their file, called unless they are copied in any case; needed: bytes that the model
    takes in all; free: those that can be taken, None if nobody says. Raises ModelError where the environment
    asks for what is not known.
    """
    asked = os.environ.get(VARIABLE)
    if asked not in (None, "", "mapped", "copied"):
        raise ModelError(f"{VARIABLE} is {asked!r}", remedy="set it to mapped or copied, or unset it")
    if asked == "copied":
        return True, f"{VARIABLE} says so"
    huge = populate()
    if asked:
        return False, f"{VARIABLE} says so"
    if huge >= MOST:
        return False, f"{huge:.0%} of the file lie in huge pages as it is"
    if not available():
        return False, "this system has no huge pages for programs that ask"
    if free is None or free < needed * 11 // 10:
        return False, "a copy in huge pages would take too much of the memory that is available"
    return True, f"only {huge:.0%} of the file lie in huge pages, which are read faster"


def _advise(memory: mmap.mmap, advice: int, start: int = 0, size: int | None = None) -> None:
    """Tell Linux how memory is used; an older one that does not understand goes on as it is."""
    if sys.platform == "linux":
        with suppress(OSError):
            memory.madvise(advice, start, len(memory) - start if size is None else size)
