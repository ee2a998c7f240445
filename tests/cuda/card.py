"""A `Launcher` on the card of this machine for tensors that lie on the host: the same tests run on both."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from model.kernels.cuda import CudaKernels, open_cuda
from model.kernels.launcher import Argument, Grid


@cache
def kernels() -> CudaKernels:
    """Those of the first card."""
    return open_cuda(torch.device("cuda"))


class OnCard:
    """Copies all tensors of a launch to the card and back."""

    @property
    def name(self) -> str:
        return kernels().name

    @property
    def arch(self) -> int:
        return kernels().arch

    @property
    def multiprocessors(self) -> int:
        """As few as the host has, so that tests with small matrices take the same ways."""
        return 4

    def prepare(self, names: Iterable[str]) -> None:
        kernels().prepare(names)

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None:
        there = [one.cuda() if isinstance(one, Tensor) else one for one in arguments]
        kernels().launch(kernel, grid, block, *there, shared=shared)
        torch.cuda.synchronize()
        for one, moved in zip(arguments, there, strict=True):
            if isinstance(one, Tensor) and isinstance(moved, Tensor):
                one.copy_(moved)
