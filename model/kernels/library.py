"""The CPU's native library, opened by ctypes: found beside the sources, checked, its functions typed.

It was built when glmbot was installed (setup.py) or came with the wheel; nothing is ever compiled here. This
module needs no torch. native/glm_cpu.h says what the functions do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from model.types import ModelError

ABI = 1
"""GLM_ABI of native/glm_cpu.h."""
FILE = Path(__file__).parent / "native"
FILE /= {"darwin": "libglm_cpu.dylib", "win32": "glm_cpu.dll"}.get(sys.platform, "libglm_cpu.so")
ISA_VARIABLE = "GLMBOT_CPU_ISA"
THREADS_VARIABLE = "GLMBOT_CPU_THREADS"


class NoLibrary(ModelError):
    """There is no native library that can be used."""


class GlmMatrix(ctypes.Structure):
    """`glm_matrix`: addresses of a matrix in tiles, and its shape."""

    _fields_ = (
        ("packed", c_void_p),
        ("scale", c_void_p),
        ("zero", c_void_p),
        ("bias", c_void_p),
        ("bits", c_int32),
        ("block", c_int32),
        ("blocks", c_int32),
        ("group_blocks", c_int32),
        ("groups", c_int32),
        ("out_features", c_int32),
        ("in_features", c_int32),
    )


class GlmPages(ctypes.Structure):
    """`glm_pages`: addresses of keys and values in pages, and their shape."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("zero", c_void_p),
        ("pages", c_int64),
        ("storage", c_int32),
        ("heads", c_int32),
        ("head_size", c_int32),
    )


class GlmBlock(ctypes.Structure):
    """`glm_block`: a layer's matrices, and addresses of the norms inside and after it."""

    _fields_ = (
        ("query_key_value", GlmMatrix),
        ("dense", GlmMatrix),
        ("dense_h_to_4h", GlmMatrix),
        ("dense_4h_to_h", GlmMatrix),
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("next_weight", c_void_p),
        ("next_bias", c_void_p),
    )


_MATRIX = POINTER(GlmMatrix)
_PAGES = POINTER(GlmPages)
_BLOCKS = POINTER(GlmBlock)
_POOL = c_void_p
_DATA = c_void_p  # the address of numbers: tensor.data_ptr()

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "glm_abi": (c_int32, ()),
    "glm_isa": (c_char_p, ()),
    "glm_isas": (c_char_p, ()),
    "glm_use": (c_int32, (c_char_p,)),
    "glm_pool_new": (_POOL, (c_int32, c_int32, c_int32)),
    "glm_pool_free": (None, (_POOL,)),
    "glm_pool_threads": (c_int32, (_POOL,)),
    "glm_linear": (None, (_POOL, _MATRIX, _DATA, c_int64, _DATA, c_int32)),
    "glm_embed": (None, (_MATRIX, _DATA, c_int64, _DATA)),
    "glm_norm": (
        None,
        (_POOL, _DATA, _DATA, c_float, _DATA, _DATA, c_float, c_int64, c_int64, _DATA),
    ),
    "glm_rope_kv": (
        None,
        (_POOL, _PAGES, c_int64, *(_DATA,) * 3, c_int32, _DATA, c_int64, *(_DATA,) * 3),
    ),
    "glm_attention": (None, (_POOL, _PAGES, c_int64, *(_DATA,) * 3, c_int64, _DATA)),
    "glm_context_attention": (
        None,
        (_POOL, _DATA, c_int64, _DATA, _DATA, c_int64, c_int32, c_int32, _DATA),
    ),
    "glm_layers": (
        None,
        (
            *(_POOL, _BLOCKS, c_int32, _PAGES, _DATA, _DATA, c_int32, _DATA, _DATA, _DATA),
            *(c_int64, c_float, c_float, c_int32, _DATA, c_int64, _DATA, _DATA),
        ),
    ),
    "glm_probe_read": (c_double, (_POOL, _DATA, c_int64)),
    "glm_probe_dot": (c_double, (_POOL, c_int64, POINTER(c_int64))),
}
"""What each function returns and takes."""


class Library:
    """The open library; its functions are attributes of `c`, called without the interpreter's lock."""

    def __init__(self, file: Path = FILE) -> None:
        """Raises NoLibrary where it is missing, damaged or of another version of glmbot."""
        self.c = _load(file)

    @property
    def isa(self) -> str:
        """The instruction set in use: at first the best of this CPU."""
        return _text(self.c.glm_isa())

    @property
    def isas(self) -> list[str]:
        """The instruction sets that this CPU can use, best first."""
        return _text(self.c.glm_isas()).split()

    def use(self, isa: str) -> None:
        """Change to another instruction set, not while a function runs. Raises ModelError."""
        if self.c.glm_use(isa.encode()) != 0:
            known = ", ".join(self.isas)
            raise ModelError(f"this CPU has no instruction set {isa!r}", remedy=f"choose from {known}")


def open_library() -> Library:
    """The library with the best instruction set of this CPU, or the one that GLMBOT_CPU_ISA names.

    Raises NoLibrary, and ModelError where the variable names none that is there.
    """
    library = Library()
    if asked := os.environ.get(ISA_VARIABLE):
        try:
            library.use(asked)
        except ModelError as error:
            raise ModelError(f"{ISA_VARIABLE}: {error.problem}", remedy=error.remedy) from None
    return library


class Pool:
    """Threads of the library's that stay until they are closed or forgotten; `handle` is what functions take.

    They work while a function runs, the calling thread among them. Calls from several threads at once wait
    for each other.
    """

    def __init__(
        self, library: Library, threads: int | None = None, *, pin: bool = False, spin_us: int = 50
    ) -> None:
        """`threads`: None is `default_threads`. pin: each to a core of its own.

        spin_us: microseconds for which a thread without work looks for more before it sleeps.
        """
        wanted = default_threads() if threads is None else threads
        self.handle = library.c.glm_pool_new(wanted, pin, spin_us)
        if not self.handle:
            raise ModelError(f"{wanted} threads cannot be started", remedy=f"set {THREADS_VARIABLE} lower")
        self.threads: int = library.c.glm_pool_threads(self.handle)
        self._free = weakref.finalize(self, library.c.glm_pool_free, self.handle)
        self._free.atexit = False  # a thread may be at work still; the process takes all of them along

    def close(self) -> None:
        """End the threads; none may be at work."""
        self._free()
        self.handle = None


def default_threads() -> int:
    """GLMBOT_CPU_THREADS, or as many as the cores that this process may use. Raises ModelError."""
    asked = os.environ.get(THREADS_VARIABLE)
    if not asked:
        return usable_cores()
    if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
        problem = f"{THREADS_VARIABLE} is {asked!r}, which is no number of threads"
        raise ModelError(problem, remedy=f"unset it: this process may use {usable_cores()}")
    return int(asked)


def usable_cores(root: Path = Path("/")) -> int:
    """Cores by the affinity of this process, or fewer where its control group has a quota (a container's)."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in groups if line.startswith("0::/"))
        quota, period = (root / "sys/fs/cgroup" / own / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError, StopIteration):  # "max" is no number either
        return cores


def _load(file: Path) -> ctypes.CDLL:
    if not file.exists():
        raise _not_built(file)
    try:
        c = ctypes.CDLL(str(file))
    except OSError as error:
        why = str(error).removeprefix(f"{file}: ")
        raise NoLibrary(f"{file.name} cannot be opened: {why}", remedy=_remedy(file)) from None
    try:
        found = c.glm_abi()
        if found == ABI:
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(c, name)
                function.restype, function.argtypes = result, arguments
            return c
    except AttributeError:  # a function is missing
        found = "none"
    raise NoLibrary(f"{file.name} has the interface {found} instead of {ABI}", remedy=_remedy(file))


def _not_built(file: Path) -> NoLibrary:
    """With the reason that the installation left."""
    try:
        why = file.with_name("not_built.txt").read_text(encoding="utf-8").strip()
    except OSError:
        why = "glmbot was not installed from here"
    return NoLibrary(f"the native library is not built ({why})", remedy=_remedy(file))


def _remedy(file: Path) -> str:
    """In a clone the library lies beside its sources."""
    again = "pip install -e ." if file.with_name("glm_cpu.h").exists() else "install glmbot anew"
    return f"with a C++ compiler at hand: {again}"


def _text(value: bytes) -> str:
    return value.decode()
