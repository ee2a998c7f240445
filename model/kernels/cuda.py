"""The kernels of cuda/ on an NVIDIA card: compiled for it when they are first used, kept, loaded, launched.

No toolkit and no compiler is needed: NVRTC comes with PyTorch, and the sources include nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ctypes import addressof, c_void_p
from functools import cached_property
from pathlib import Path
from time import perf_counter

import structlog
import torch

from model.kernels.cubin_cache import CubinCache, cache_folder
from model.kernels.driver import Driver
from model.kernels.launcher import Argument, Grid, c_value
from model.kernels.nvrtc import Compiled, NoKernels, Nvrtc, open_nvrtc
from model.types import ModelError

log = structlog.get_logger(__name__)

OLDEST = 75
"""Compute capability 7.5, the first with ldmatrix and the matrix instruction that is used."""
OPTIONS = ("--std=c++17", "--fmad=false", "-default-device")
"""Multiplications and additions are fused where the sources say so, and nowhere else."""
_FREE_SHARED = 48 << 10
"""Bytes of dynamic shared memory that a kernel has without asking."""
_KERNEL = re.compile(r"SIMT_KERNEL\([^)]*(?:\([^)]*\))?\)\s+(\w+)\(")


def source_folder() -> Path:
    """Where the sources are: cuda/ of a checkout, else the copy beside this file in an installed package."""
    checkout = Path(__file__).parents[2] / "cuda"
    return checkout if (checkout / "simt.cuh").is_file() else Path(__file__).parent / "cuda_sources"


class Sources:
    """The sources of a folder, read once."""

    def __init__(self, folder: Path) -> None:
        """Raises NoKernels where there are none."""
        self.files = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.cu"))}
        self.headers = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.cuh"))}
        if not self.files:
            raise NoKernels(f"{folder} holds no sources of kernels", remedy="install glmbot anew")
        self._file_of = {
            kernel: name for name, text in self.files.items() for kernel in _KERNEL.findall(text)
        }

    @property
    def kernels(self) -> frozenset[str]:
        """The names of all, without arguments of templates."""
        return frozenset(self._file_of)

    def file_of(self, kernel: str) -> str:
        """The file that defines "NAME<...>"."""
        return self._file_of[kernel.partition("<")[0]]

    def key(self, file: str, kernels: Iterable[str], arch: int, version: tuple[int, int]) -> str:
        """Changes with all that its compiled form hangs on."""
        parts = (self.files[file], self.headers, sorted(kernels), arch, version, OPTIONS)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class CudaKernels:
    """A `Launcher`: kernels go on the stream that is current when they are launched."""

    def __init__(
        self,
        *,
        name: str,
        arch: int,
        multiprocessors: int,
        stream: Callable[[], int],
        driver: Driver,
        nvrtc: Nvrtc | None = None,
        sources: Sources | None = None,
        cache: CubinCache | None = None,
    ) -> None:
        """In the context that is current in this thread; others enter it when they come.

        stream: the handle of the current one. nvrtc: None opens the one that is there.
        """
        self.name = name
        self.arch = arch
        self.multiprocessors = multiprocessors
        self._stream = stream
        self._driver = driver
        self._given_nvrtc = nvrtc
        self._sources = sources or Sources(source_folder())
        self._cache = cache or CubinCache(cache_folder())
        self._context = driver.context()
        self._entered = threading.local()
        self._functions: dict[str, c_void_p] = {}
        self._shared: dict[str, int] = {}

    @property
    def driver(self) -> str:
        """The CUDA that it knows, "13.0"."""
        return ".".join(map(str, self._driver.version))

    def prepare(self, kernels: Iterable[str]) -> None:
        """Load kernels, having compiled what is not kept: a program for each source, in threads.

        Raises NoKernels for a card that the compiler does not know, and ModelError.
        """
        wanted = defaultdict[str, list[str]](list)
        for kernel in sorted(set(kernels) - self._functions.keys()):
            wanted[self._sources.file_of(kernel)].append(kernel)
        if not wanted:
            return
        self._enter()
        began = perf_counter()
        version = self._nvrtc.version
        keys = {file: self._sources.key(file, names, self.arch, version) for file, names in wanted.items()}
        found = {file: self._cache.get(key) for file, key in keys.items()}
        missing = [file for file, compiled in found.items() if compiled is None]
        if missing:
            self._check_arch()
            log.info("compiling kernels for the first start", card=self.name, files=len(missing))
            with ThreadPoolExecutor() as pool:
                made = pool.map(lambda file: self._compile(file, wanted[file]), missing)
                for file, new in zip(missing, made, strict=True):
                    self._cache.put(keys[file], new)
                    found[file] = new
        for compiled in found.values():
            assert compiled is not None
            module = self._driver.load(compiled.cubin)
            for kernel, lowered in compiled.names.items():
                self._functions[kernel] = self._driver.function(module, lowered)
        seconds = round(perf_counter() - began, 2)
        log.info("kernels are loaded", kernels=len(self._functions), compiled=len(missing), seconds=seconds)

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None:
        """See `Launcher.launch`; a kernel that was not prepared is loaded first."""
        function = self._functions.get(kernel)
        if function is None:
            self.prepare([kernel])
            function = self._functions[kernel]
        self._enter()
        if shared > _FREE_SHARED and self._shared.get(kernel, 0) < shared:
            self._driver.allow_shared(function, shared)
            self._shared[kernel] = shared
        values = [c_value(argument) for argument in arguments]
        addresses = (c_void_p * len(values))(*map(addressof, values))
        self._driver.launch(function, grid, block, shared, self._stream(), addresses, kernel)

    def _enter(self) -> None:
        """A thread that has asked torch for nothing yet has no context."""
        if not getattr(self._entered, "done", False):
            self._driver.enter(self._context)
            self._entered.done = True

    @cached_property
    def _nvrtc(self) -> Nvrtc:
        return self._given_nvrtc or open_nvrtc()

    def _check_arch(self) -> None:
        archs = self._nvrtc.archs
        if self.arch < OLDEST or self.arch not in archs:
            known = ", ".join(f"{arch / 10:.1f}" for arch in archs if arch >= OLDEST)
            raise NoKernels(
                f"{self.name} has compute capability {self.arch / 10:.1f}; the kernels are for {known}",
                remedy="the model then runs by PyTorch alone: slower, and with more memory",
            )

    def _compile(self, file: str, kernels: list[str]) -> Compiled:
        sources = self._sources
        text, headers = sources.files[file], sources.headers
        return self._nvrtc.compile(text, file, headers, kernels, self.arch, OPTIONS)


def open_cuda(device: torch.device) -> CudaKernels:
    """Kernels on a card that torch knows. Raises NoKernels."""
    driver = Driver()
    if not torch.cuda.is_available():
        remedy = "install PyTorch for CUDA and a driver that is new enough for it"
        raise NoKernels("PyTorch finds no card", remedy=remedy)
    try:
        torch.cuda.synchronize(device)  # now its context is the current one of this thread
    except RuntimeError as error:
        problem = f"the card cannot be used: {str(error).partition(chr(10))[0]}"
        raise NoKernels(problem, remedy="see that nvidia-smi works and no other program keeps it") from error
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = torch.cuda.get_device_properties(index)
    arch = properties.major * 10 + properties.minor
    kernels = CudaKernels(
        name=properties.name,
        arch=arch,
        multiprocessors=properties.multi_processor_count,
        stream=lambda: torch.cuda.current_stream(index).cuda_stream,
        driver=driver,
    )
    try:
        kernels.prepare(["attn_combine"])  # whatever can go wrong for good shows with the smallest of them
    except NoKernels:
        raise
    except ModelError as error:
        raise NoKernels(error.problem, remedy=error.remedy) from error
    return kernels
