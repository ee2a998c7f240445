"""The part of NVIDIA's driver that loads cubins and launches their kernels, by ctypes.

It works in the context that torch has made for a card; see the CUDA driver API reference.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_void_p

from model.kernels.nvrtc import NoKernels
from model.types import ModelError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_FUNCTIONS = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxSetCurrent": (c_void_p,),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), c_void_p),
}
_MOST_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_OUT_OF_MEMORY = 2
_NO_BINARY, _TOO_NEW = 209, 222
"""CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_UNSUPPORTED_PTX_VERSION."""
_REMEDIES = {
    _OUT_OF_MEMORY: "close other programs that use the card, or lower model.memory",
    _NO_BINARY: "update NVIDIA's driver",
    _TOO_NEW: "update NVIDIA's driver",
}


class Driver:
    """The driver of the cards that are here."""

    def __init__(self, library: str = _LIBRARY) -> None:
        """Raises NoKernels where there is none, or it does not work."""
        try:
            self._c = ctypes.CDLL(library)
            for name, types in _FUNCTIONS.items():
                function = getattr(self._c, name)
                function.restype, function.argtypes = c_int, types
        except (OSError, AttributeError) as error:
            remedy = "install NVIDIA's driver; without it set model.device to cpu"
            raise NoKernels(f"NVIDIA's driver was not found ({error})", remedy=remedy) from None
        try:
            self._check(self._c.cuInit(0), "the driver does not start")
        except ModelError as error:
            raise NoKernels(error.problem, remedy=error.remedy) from None

    @property
    def version(self) -> tuple[int, int]:
        """The CUDA that it knows, (13, 0)."""
        version = c_int()
        self._check(self._c.cuDriverGetVersion(byref(version)), "the driver tells no version")
        return version.value // 1000, version.value % 1000 // 10

    def context(self) -> c_void_p:
        """The one that is current in this thread. Raises ModelError."""
        context = c_void_p()
        self._check(self._c.cuCtxGetCurrent(byref(context)), "the driver tells no context")
        return context

    def enter(self, context: c_void_p) -> None:
        """Make a context that of this thread. Raises ModelError."""
        self._check(self._c.cuCtxSetCurrent(context), "the card's context cannot be entered")

    def load(self, cubin: bytes) -> c_void_p:
        """A module in the current context, which must not be capturing. Raises ModelError."""
        module = c_void_p()
        major, minor = self.version
        known = f"the driver, which knows CUDA {major}.{minor}, does not load the kernels"
        self._check(self._c.cuModuleLoadData(byref(module), cubin), known)
        return module

    def function(self, module: c_void_p, name: str) -> c_void_p:
        """A kernel of a module, by its lowered name. Raises ModelError."""
        function = c_void_p()
        self._check(self._c.cuModuleGetFunction(byref(function), module, name.encode()), name)
        return function

    def allow_shared(self, function: c_void_p, size: int) -> None:
        """Let a kernel have so many bytes of dynamic shared memory. Raises ModelError."""
        problem = f"no {size:,} bytes of shared memory"
        self._check(self._c.cuFuncSetAttribute(function, _MOST_SHARED, size), problem)

    def launch(
        self,
        function: c_void_p,
        grid: tuple[int, int, int],
        block: int,
        shared: int,
        stream: int,
        arguments: ctypes.Array[c_void_p],
        name: str,
    ) -> None:
        """Put a kernel on a stream; `arguments` are addresses of its arguments. Raises ModelError."""
        launch = self._c.cuLaunchKernel
        result = launch(function, *grid, block, 1, 1, shared, stream, arguments, None)
        if result:
            self._check(result, f"{name} cannot be launched")

    def _check(self, result: int, problem: str) -> None:
        if not result:
            return
        name, text = c_char_p(), c_char_p()
        self._c.cuGetErrorName(result, byref(name))
        self._c.cuGetErrorString(result, byref(text))
        told = " ".join(value.value.decode() for value in (name, text) if value.value) or f"error {result}"
        remedy = _REMEDIES.get(
            result, "see that nvidia-smi works; with model.device cpu the card is not used"
        )
        raise ModelError(f"{problem}: {told}", remedy=remedy)
