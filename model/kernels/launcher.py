"""How a kernel of cuda/ is started: on a graphics card, or, in tests, on the host that plays one."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import c_float, c_int32, c_void_p
from typing import Protocol, TypeAlias

from torch import Tensor

Grid: TypeAlias = tuple[int, int, int]
Argument: TypeAlias = Tensor | int | float | None
"""A tensor goes as the address of its first number, an int as int32, a float as float32, None as a null."""


class Launcher(Protocol):
    """A device that kernels run on, in the order in which they were launched."""

    @property
    def name(self) -> str:
        """For people: "NVIDIA GeForce RTX 3090"."""
        ...

    @property
    def arch(self) -> int:
        """Compute capability, 86 for 8.6."""
        ...

    @property
    def multiprocessors(self) -> int:
        """How many blocks at least are needed to keep all of it at work."""
        ...

    def prepare(self, kernels: Iterable[str]) -> None:
        """Make kernels ready that will be launched, so that no launch has to wait for a compiler."""
        ...

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None:
        """Start a kernel, named as in C++ with its template arguments: "linear_sums<4, false, false, 1, 3>".

        block: threads of a block; shared: bytes of dynamic shared memory. Where a program of the stream is
        being captured into a graph, it becomes a node of that. Raises ModelError where it cannot be started.
        """
        ...


def c_value(argument: Argument) -> c_void_p | c_int32 | c_float:
    """What stands for an argument in memory. Raises OverflowError, and ValueError for a tensor with gaps."""
    if argument is None or isinstance(argument, Tensor):
        if argument is not None and not argument.is_contiguous():
            raise ValueError("kernels take contiguous tensors only")
        return c_void_p(None if argument is None else argument.data_ptr())
    if isinstance(argument, int):
        if not -(2**31) <= argument < 2**31:
            raise OverflowError(f"{argument} is no 32-bit integer")
        return c_int32(argument)
    return c_float(argument)
