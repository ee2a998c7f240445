"""Memory for weights in pages of 2 MiB, where the system has them for who asks; else as torch takes it.

Weights are read from one end to the other for every token. With pages of 4 KiB the processor looks up an
address every 64 lines, and its prefetching ends there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from model.types import ModelError

VARIABLE = "GLMBOT_CPU_WEIGHTS"
"""Says `mapped` or `copied` where the rule of `choose` shall not hold."""
SIZE = 1 << 21
"""Bytes of a huge page on x86-64, and on ARM with base pages of 4 KiB."""

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def available() -> bool:
    """Whether the system gives huge pages to who asks (Linux; its administrator may have said `never`)."""
    try:
        return sys.platform == "linux" and "[never]" not in _ENABLED.read_text("ascii")
    except OSError:
        return False


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of any values, aligned to 64 bytes; in huge pages if it fills one."""
    size = prod(shape) * dtype.itemsize
    if size < SIZE or not available():
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size + SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    values = torch.frombuffer(memory, dtype=torch.uint8)  # it keeps the mapping for as long as it lives
    start = -values.data_ptr() % SIZE
    return values[start : start + size].view(dtype).view(shape)


def choose(needed: int, free: int | None) -> tuple[bool, str]:
    """Whether to copy mapped weights into huge pages, and why.

    needed: bytes that the model takes in all; free: those that can be taken, None if nobody says. Raises
    ModelError where the environment asks for what is not known.
    """
    asked = os.environ.get(VARIABLE)
    if asked not in (None, "", "mapped", "copied"):
        raise ModelError(f"{VARIABLE} is {asked!r}", remedy="set it to mapped or copied, or unset it")
    if asked:
        return asked == "copied", f"{VARIABLE} says so"
    if not available():
        return False, "this system has no huge pages for programs that ask"
    if free is None or free < needed * 11 // 10:
        return False, "a copy in huge pages would take too much of the memory that is available"
    return True, "read faster than in the pages of a mapped file"


def forget(mapped: Tensor) -> None:
    """Let go of the pages of a mapped file that a tensor fills, which nobody reads any more."""
    if sys.platform != "linux":
        return
    start, page = mapped.data_ptr(), mmap.PAGESIZE
    first, last = -(-start // page) * page, (start + mapped.nbytes) // page * page
    if first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
