"""NVIDIA's run-time compiler by ctypes: CUDA C++ to a cubin, without a toolkit, headers, a card or a driver.

PyTorch's wheels for CUDA bring the library along: on Linux as a package of its own, on Windows beside torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

from model.types import ModelError

_SUCCESS, _COMPILATION = 0, 6
_PATTERNS = ("nvrtc64_*_0.dll",) if sys.platform == "win32" else ("libnvrtc.so.[0-9]*", "libnvrtc.so")
"""Windows also has nvrtc64_*_0.alt.dll, another compiler."""
_BUILTINS = "nvrtc-builtins64_*[0-9].dll" if sys.platform == "win32" else "libnvrtc-builtins.so.*"
_FUNCTIONS = {
    "nvrtcVersion": (POINTER(c_int), POINTER(c_int)),
    "nvrtcGetNumSupportedArchs": (POINTER(c_int),),
    "nvrtcGetSupportedArchs": (POINTER(c_int),),
    "nvrtcCreateProgram": (
        *(POINTER(c_void_p), c_char_p, c_char_p, c_int),
        *(POINTER(c_char_p), POINTER(c_char_p)),
    ),
    "nvrtcDestroyProgram": (POINTER(c_void_p),),
    "nvrtcAddNameExpression": (c_void_p, c_char_p),
    "nvrtcCompileProgram": (c_void_p, c_int, POINTER(c_char_p)),
    "nvrtcGetProgramLogSize": (c_void_p, POINTER(c_size_t)),
    "nvrtcGetProgramLog": (c_void_p, c_char_p),
    "nvrtcGetCUBINSize": (c_void_p, POINTER(c_size_t)),
    "nvrtcGetCUBIN": (c_void_p, c_char_p),
    "nvrtcGetLoweredName": (c_void_p, c_char_p, POINTER(c_char_p)),
}


class NoKernels(ModelError):
    """The kernels of cuda/ cannot be used here at all."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A cubin, and the names of its kernels in it by their names in C++."""

    cubin: bytes
    names: dict[str, str]


class Nvrtc:
    """The library; may be used by several threads at once."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where it cannot be loaded, AttributeError where it is too old."""
        self.file = file
        for builtins in sorted(file.parent.glob(_BUILTINS)):
            ctypes.CDLL(str(builtins))  # NVRTC asks for it by its name alone, and finds it where it is loaded
        self._c = ctypes.CDLL(str(file))
        for name, types in _FUNCTIONS.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = c_int, types
        self._c.nvrtcGetErrorString.restype = c_char_p
        self._c.nvrtcGetErrorString.argtypes = [c_int]

    @property
    def version(self) -> tuple[int, int]:
        """(13, 0)."""
        major, minor = c_int(), c_int()
        self._check(self._c.nvrtcVersion(byref(major), byref(minor)))
        return major.value, minor.value

    @property
    def archs(self) -> tuple[int, ...]:
        """The compute capabilities that it compiles for, 86 for 8.6."""
        count = c_int()
        self._check(self._c.nvrtcGetNumSupportedArchs(byref(count)))
        archs = (c_int * count.value)()
        self._check(self._c.nvrtcGetSupportedArchs(archs))
        return tuple(archs)

    def compile(
        self,
        source: str,
        name: str,
        headers: Mapping[str, str],
        kernels: Sequence[str],
        arch: int,
        options: Sequence[str] = (),
    ) -> Compiled:
        """Compile a source with headers by their names; `kernels` are C++ expressions such as "f<1>".

        Raises ModelError with the compiler's log.
        """
        program = c_void_p()
        texts, names = _strings(headers.values()), _strings(headers)
        create = self._c.nvrtcCreateProgram
        self._check(create(byref(program), source.encode(), name.encode(), len(headers), texts, names))
        try:
            for kernel in kernels:
                self._check(self._c.nvrtcAddNameExpression(program, kernel.encode()))
            flags = _strings([f"--gpu-architecture=sm_{arch}", *options])
            result = self._c.nvrtcCompileProgram(program, len(flags), flags)
            if result == _COMPILATION:
                log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise ModelError(f"{name} does not compile for sm_{arch}:\n{log.strip()}")
            self._check(result)
            lowered = {kernel: self._lowered(program, kernel) for kernel in kernels}
            return Compiled(self._read(program, "CUBIN"), lowered)
        finally:
            self._c.nvrtcDestroyProgram(byref(program))

    def _read(self, program: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._c, f"nvrtcGet{what}Size")(program, byref(size)))
        content = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._c, f"nvrtcGet{what}")(program, content))
        return content.raw

    def _lowered(self, program: c_void_p, kernel: str) -> str:
        name = c_char_p()
        self._check(self._c.nvrtcGetLoweredName(program, kernel.encode(), byref(name)))
        assert name.value is not None
        return name.value.decode()

    def _check(self, result: int) -> None:
        if result != _SUCCESS:
            problem = self._c.nvrtcGetErrorString(result).decode()
            raise ModelError(f"NVRTC ({self.file}): {problem}", remedy="install torch for CUDA anew")


def open_nvrtc() -> Nvrtc:
    """The first library that can be loaded. Raises NoKernels."""
    tried = list[str]()
    for file in _candidates():
        try:
            return Nvrtc(file)
        except (OSError, AttributeError) as error:
            tried.append(f"{file}: {error}")
    raise NoKernels(
        "; ".join(tried) or "NVIDIA's run-time compiler (NVRTC) was not found",
        remedy="install PyTorch for CUDA, which brings it, or: pip install nvidia-cuda-nvrtc",
    )


def _candidates() -> Iterator[Path]:
    """Of the packages first, then what the system's loader knows."""
    for package, places in (("nvidia", ("*/lib", "*/bin", "*/bin/*")), ("torch", ("lib",))):
        found = importlib.util.find_spec(package)
        folders = [] if found is None else list(found.submodule_search_locations or [])
        for place in places:
            for pattern in _PATTERNS:
                files = (file for folder in folders for file in Path(folder).glob(f"{place}/{pattern}"))
                yield from sorted(files, key=_newest)
    yield Path("nvrtc64_130_0.dll" if sys.platform == "win32" else "libnvrtc.so.13")


def _newest(file: Path) -> tuple[int, str]:
    number = re.search(r"\d+$|_(\d+)_0\.dll$", file.name)
    return -int(number.group(1) or number.group()) if number else 0, str(file)


def _strings(values: Iterable[str]) -> ctypes.Array[c_char_p]:
    encoded = [value.encode() for value in values]
    return (c_char_p * len(encoded))(*encoded)
