"""Builds the CPU's kernels into one shared library, where a C++ compiler is, and ships the cards' as sources.

The library has a plain C interface, so it knows no Python version: it has no Python tag in its name, and one
wheel serves every Python of a platform. Without it everything works, only slower: a build that fails is a
warning, and a file beside the place of the library keeps the reason for `glmbot model info`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

NATIVE = Path("model/kernels/native")
CUDA, CUDA_SOURCES = Path("cuda"), Path("model/kernels/cuda_sources")
LIBRARY = {"darwin": "libglm_cpu.dylib", "win32": "glm_cpu.dll"}.get(sys.platform, "libglm_cpu.so")
NOT_BUILT = "not_built.txt"

# No -march: functions name their instruction sets themselves. A fused multiply-add is one only where it is
# written as one, so that every instruction set gives the same bits. -g0: Python's own flags ask for symbols.
UNIX_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fvisibility=hidden",
    "-pthread",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-g0",
]
MSVC_FLAGS = ["/O2", "/std:c++17", "/EHsc", "/fp:precise"]


def in_threads(compiler: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """What compiles several files at once; a compiler that sees them all takes one after the other."""

    def compile_all(sources: list[str], **options: Any) -> list[str]:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            objects = pool.map(lambda source: compiler([source], **options), sources)
            return [name for names in objects for name in names]

    return compile_all


class build_library(build_ext):  # noqa: N801 - commands are spelt like this
    """Builds it under its plain name; a failure leaves the reason instead."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the library of an extension goes."""
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Those that the sources mark; there is no PyInit."""
        return []

    def get_libraries(self, ext: Extension) -> list[str]:
        """None: not Python's either."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compile and link. Raises nothing: what went wrong is a warning and stands in a file."""
        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if msvc else UNIX_FLAGS
        ext.extra_link_args = [] if msvc else ["-pthread"]
        if not msvc:  # whose object initialises itself at its first file
            self.compiler.compile = in_threads(self.compiler.compile)
        library = Path(self.get_ext_fullpath(ext.name))
        note = library.with_name(NOT_BUILT)
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            reason = self._reason(error)
            library.unlink(missing_ok=True)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{reason}\n", encoding="utf-8")
            self.warn(f"glmbot goes without its native CPU library, and slower for it: {reason}")
        else:
            note.unlink(missing_ok=True)

    def _reason(self, error: Exception) -> str:
        """A line for people; the compiler's own words are in the output of the build."""
        if self.compiler.compiler_type != "unix":
            return " ".join(str(error).split())
        program = self.compiler.compiler_cxx[0]
        if shutil.which(program) is None:
            return f"{program} was not found at the installation"
        return f"{program} failed at the installation; pip install -v shows how"

    def copy_extensions_to_source(self) -> None:
        """What was built, or why nothing was, beside the sources; what lay there is of older sources."""
        built = Path(self.build_lib) / NATIVE
        for name in (LIBRARY, NOT_BUILT):
            (NATIVE / name).unlink(missing_ok=True)
            if (built / name).exists():
                self.copy_file(str(built / name), str(NATIVE / name))

    def get_outputs(self) -> list[str]:
        """The library, or the reason."""
        built = Path(self.build_lib) / NATIVE
        return [str(built / name) for name in (LIBRARY, NOT_BUILT) if (built / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """The same with their places beside the sources, for editable installations."""
        if not self.inplace:
            return {}
        return {output: str(NATIVE / Path(output).name) for output in self.get_outputs()}


class build_modules(build_py):  # noqa: N801
    """Puts the sources of cuda/ beside the module that compiles them: no package may be called cuda."""

    def run(self) -> None:
        """Copy them behind the modules; an editable installation reads them where they are."""
        super().run()
        for source in self._sources():
            self.mkpath(str(self._target(source).parent))
            self.copy_file(str(source), str(self._target(source)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The modules and the sources."""
        return [*super().get_outputs(include_bytecode), *(str(self._target(one)) for one in self._sources())]

    def _sources(self) -> list[Path]:
        return [] if self.editable_mode else sorted([*CUDA.glob("*.cu"), *CUDA.glob("*.cuh")])

    def _target(self, source: Path) -> Path:
        return Path(self.build_lib) / CUDA_SOURCES / source.name


class platform_wheel(bdist_wheel):  # noqa: N801
    """Any Python 3, this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """(Python, its binary interface, platform)."""
        return ("py3", "none", super().get_tag()[2])


def files(*patterns: str) -> list[str]:
    """Files of the native folder, as setuptools wants them."""
    return sorted(path.as_posix() for pattern in patterns for path in NATIVE.glob(pattern))


setup(
    ext_modules=[
        Extension(
            "model.kernels.native.glm_cpu",
            sources=files("*.cpp"),
            depends=files("*.h", "*.hpp", "*.inl"),
            language="c++",
        )
    ],
    cmdclass={"build_ext": build_library, "build_py": build_modules, "bdist_wheel": platform_wheel},
)
