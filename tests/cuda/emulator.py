"""A `Launcher` on the host: kernels of cuda/ compiled by g++, their threads fibers (cuda/simt_host.hpp)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.kernels.cuda import Sources
from model.kernels.launcher import Argument, Grid, c_value

SOURCES = Path(__file__).parents[2] / "cuda"
FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
AT_ONCE = 6
"""Kernels of a library: the headers cost as much as two of them."""
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1")
COMPILER = shutil.which("g++")


class SimtError(Exception):
    """What a kernel did that it must not."""


_COUNTED = (
    *("loaded", "stored", "copied", "mma", "ldmatrix", "fma"),
    *("half2", "logic", "special", "shuffle", "barrier", "atomic"),
)


class Counts(ctypes.Structure):
    """What threads did: bytes, and instructions of one thread each."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _COUNTED)
    loaded: int
    stored: int
    copied: int
    mma: int
    ldmatrix: int
    fma: int
    half2: int
    logic: int
    special: int
    shuffle: int
    barrier: int
    atomic: int


class _Range(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.POINTER(ctypes.c_uint)),
        ("block", ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("argument_count", ctypes.c_int),
        ("ranges", ctypes.POINTER(_Range)),
        ("range_count", ctypes.c_int),
        ("order", ctypes.c_int),
    )


@dataclass
class Emulator:
    """Compiles kernels as they are asked for into `folder` and runs them, in `order` (see simt_host.hpp).

    Raises SimtError for a kernel that reads or writes beside its tensors, or waits for what never comes.
    """

    folder: Path
    arch: int = 86
    multiprocessors: int = 4
    order: int = 0
    sources: Path = SOURCES
    flags: tuple[str, ...] = ()
    name: str = "emulator"
    counts: defaultdict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    _found: dict[str, tuple[ctypes.CDLL, int]] = field(default_factory=dict)

    def prepare(self, kernels: Iterable[str]) -> None:
        """Compile what is missing, some kernels of a source at a time, on all cores."""
        missing, found = defaultdict[Path, list[str]](list), Sources(self.sources)
        for kernel in sorted(set(kernels) - self._found.keys()):
            missing[self.sources / found.file_of(kernel)].append(kernel)
        parts = [
            (source, names[i : i + AT_ONCE])
            for source, names in missing.items()
            for i in range(0, len(names), AT_ONCE)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for library, names in pool.map(lambda part: self._compile(*part), parts):
                for index, kernel in enumerate(names):
                    self._found[kernel] = library, index

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None:
        """Run it; see `Launcher.launch`."""
        if kernel not in self._found:
            self.prepare([kernel])
        library, index = self._found[kernel]
        values = [c_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        ranges = (_Range * len(tensors))(*((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors))
        launch = _Launch(
            (ctypes.c_uint * 3)(*grid), block, shared, pointers, len(values), ranges, len(ranges), self.order
        )
        failure = library.simt_launch(index, ctypes.byref(launch), ctypes.byref(self.counts[kernel]))
        if failure:
            raise SimtError(f"{kernel}: {failure.decode()}")

    @contextmanager
    def counted(self) -> Iterator[defaultdict[str, Counts]]:
        """What is done within, by kernel."""
        before, self.counts = self.counts, defaultdict(Counts)
        try:
            yield self.counts
        finally:
            self.counts = before

    def _compile(self, source: Path, kernels: list[str]) -> tuple[ctypes.CDLL, list[str]]:
        entries = ",\n".join(f"  SIMT_ENTRY({kernel})" for kernel in kernels)
        unit = (
            f'#include "{source}"\n'
            f"static const simt::Kernel kernels[] = {{\n{entries}\n}};\n"
            'extern "C" const char* simt_launch(int kernel, const simt::Launch* launch, simt::Counts* total)'
            " { return simt::launch(kernels[kernel], *launch, total); }\n"
        )
        flags = (*FLAGS, *self.flags)
        headers = sorted([*self.sources.glob("*.cuh"), *self.sources.glob("*.hpp"), source])
        content = "\0".join([unit, *flags, *(header.read_text(encoding="utf-8") for header in headers)])
        library = self.folder / f"{source.stem}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.so"
        if not library.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = library.with_suffix(".partial.so")
            command = [str(COMPILER), *flags, "-x", "c++", "-", "-o", str(partial)]
            done = subprocess.run(command, input=unit, capture_output=True, text=True)
            if done.returncode:
                raise SimtError(f"{source.name} does not compile:\n{done.stderr[:20_000]}")
            partial.replace(library)
        opened = ctypes.CDLL(str(library))
        opened.simt_launch.restype = ctypes.c_char_p
        opened.simt_launch.argtypes = [ctypes.c_int, ctypes.POINTER(_Launch), ctypes.POINTER(Counts)]
        return opened, kernels
