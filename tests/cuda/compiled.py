"""All kernels as NVIDIA's compiler makes them for a kind of card."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from model.kernels.cuda import OPTIONS, Sources, source_folder
from model.kernels.nvrtc import Nvrtc, open_nvrtc
from tests.cuda import cubins
from tests.cuda.instances import kernels


@cache
def nvrtc() -> Nvrtc:
    """The compiler. Raises NoKernels."""
    return open_nvrtc()


@cache
def compiled(arch: int) -> tuple[dict[str, cubins.Resources], dict[str, Counter[str]]]:
    """Resources and instructions of every kernel, by its name in C++."""
    sources, compiler = Sources(source_folder()), nvrtc()
    files = defaultdict[str, list[str]](list)
    for kernel in dict.fromkeys(kernels(arch)):
        files[sources.file_of(kernel)].append(kernel)

    def compile_file(file: str) -> tuple[dict[str, cubins.Resources], dict[str, Counter[str]]]:
        done = compiler.compile(sources.files[file], file, sources.headers, files[file], arch, OPTIONS)
        used, made = cubins.resources(done.cubin), cubins.instructions(done.cubin)
        by_name = {kernel: used[lowered] for kernel, lowered in done.names.items()}
        return by_name, {kernel: made[lowered] for kernel, lowered in done.names.items()}

    used, made = dict[str, cubins.Resources](), dict[str, Counter[str]]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for some_used, some_made in pool.map(compile_file, files):
            used |= some_used
            made |= some_made
    return used, made


def count(instructions: Counter[str], *parts: str) -> int:
    """How many have all parts between their dots."""
    return sum(number for name, number in instructions.items() if set(parts) <= set(name.split(".")))
