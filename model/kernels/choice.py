"""Which implementation of the operations serves here, and why none that is faster does."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.kernels.cuda import open_cuda
from model.kernels.fused import Fused
from model.kernels.library import NoLibrary, Pool, open_library
from model.kernels.native import Native
from model.kernels.nvrtc import NoKernels
from model.kernels.operations import Operations
from model.kernels.reference import Reference
from model.kernels.torch_int4 import TorchInt4, is_available


@dataclass(frozen=True, slots=True)
class Choice:
    """An implementation; `reason`: why it is not the fastest there could be, None where it is."""

    operations: Operations
    reason: str | None = None

    @property
    def has_own_threads(self) -> bool:
        """That operations share work between threads of their own, which torch's would be in the way of."""
        return isinstance(self.operations, Native)

    def __str__(self) -> str:
        """For people: "native avx512vnni, 2 threads" or "torch int4: the native library is not built ..."."""
        return self.operations.name if self.reason is None else f"{self.operations.name}: {self.reason}"


def choose(device: torch.device, dtype: torch.dtype, *, exact: bool = False) -> Choice:
    """The fastest implementation for activations of `dtype` on a device.

    exact: no activation is quantised or rounded below its dtype. For a graphics card kernels may have to be
    compiled, once. Raises ModelError where GLMBOT_CPU_ISA or GLMBOT_CPU_THREADS ask for what there is not.
    """
    if device.type == "cuda":
        return _on_card(device, dtype, exact)
    if device.type != "cpu":
        return Choice(Reference(dtype, exact), f"there are no kernels for {device.type}")
    try:
        if dtype == torch.float32:
            library = open_library()
            return Choice(Native(library, Pool(library), exact=exact))
        reason = f"the native library computes in float32, not in {str(dtype).removeprefix('torch.')}"
    except NoLibrary as error:
        reason = f"{error.problem}; {error.remedy}"
    if is_available() and not exact:
        return Choice(TorchInt4(dtype), reason)
    return Choice(Reference(dtype, exact), reason)


def _on_card(device: torch.device, dtype: torch.dtype, exact: bool) -> Choice:
    """The kernels compute in float16; everything else is PyTorch's."""
    if dtype != torch.float16 or exact:
        name = str(dtype).removeprefix("torch.")
        return Choice(Reference(dtype, exact), f"the kernels for cards compute in float16, not in {name}")
    try:
        return Choice(Fused(open_cuda(device), device))
    except NoKernels as error:
        return Choice(Reference(dtype), f"{error.problem}; {error.remedy}")
