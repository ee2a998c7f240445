"""Kernels as NVIDIA's compiler makes them, for every kind of card: nothing spills, what is planned fits."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from model.kernels.cuda import OPTIONS, Sources, source_folder
from model.kernels.nvrtc import NoKernels, open_nvrtc
from tests.cuda import cubins
from tests.cuda.instances import ARCHS, kernels, occupancy, plan

try:
    NVRTC = open_nvrtc()
except NoKernels as error:
    pytest.skip(str(error), allow_module_level=True)
if not (cubins.tool("cuobjdump") and cubins.tool("nvdisasm")):
    pytest.skip("no cuobjdump or no nvdisasm", allow_module_level=True)
SOURCES = Sources(source_folder())


@cache
def compiled(arch: int) -> tuple[dict[str, cubins.Resources], dict[str, Counter[str]]]:
    """Resources and instructions of every kernel, by its name in C++."""
    files = defaultdict[str, list[str]](list)
    for kernel in dict.fromkeys(kernels(arch)):
        files[SOURCES.file_of(kernel)].append(kernel)

    def compile_file(file: str) -> tuple[dict[str, cubins.Resources], dict[str, Counter[str]]]:
        done = NVRTC.compile(SOURCES.files[file], file, SOURCES.headers, files[file], arch, OPTIONS)
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


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_spills(arch: int) -> None:
    used, _ = compiled(arch)
    spilled = {kernel: found for kernel, found in used.items() if found.stack or found.local}
    assert spilled == {}


@pytest.mark.parametrize("arch", ARCHS)
def test_as_many_blocks_fit_as_planned(arch: int) -> None:
    used, _ = compiled(arch)
    for kernel, found in used.items():
        planned = plan(kernel, arch)
        kept_by_system = 1024 if arch >= 90 else 0  # counted before that, but not told
        assert found.shared <= kept_by_system, f"{kernel}: shared memory must be dynamic"
        fit = occupancy(found.registers, planned, arch)
        assert fit >= planned.blocks, f"{kernel} on sm_{arch}: {found}, {fit} blocks of {planned.blocks}"


@pytest.mark.parametrize("arch", ARCHS)
def test_matrix_instructions_are_those_of_the_card(arch: int) -> None:
    _, made = compiled(arch)
    for kernel, instructions in made.items():
        multiplies = kernel.startswith(("linear", "head"))
        products = count(instructions, "HMMA", "16816" if arch >= 80 else "1688")
        assert (products > 0) == multiplies == (count(instructions, "HMMA") > 0), kernel
        assert (count(instructions, "LDSM", "4") > 0) == multiplies, kernel
        copies = count(instructions, "LDGSTS", "128")
        assert (copies > 0) == (multiplies and arch >= 80), kernel
        if multiplies and arch < 80:
            assert count(instructions, "LDG", "128") > 0, kernel


@pytest.mark.parametrize("arch", ARCHS)
def test_a_step_of_the_linear_kernel_is_what_was_counted(arch: int) -> None:
    """4 products of 16 x 16 for a tile of 16 x 64, and no more than three instructions for 8 weights."""
    _, made = compiled(arch)
    kernel = next(name for name in made if name.startswith("linear_sums<4, false, false, 1,"))
    instructions = made[kernel]
    products = count(instructions, "HMMA")
    steps = products // (4 if arch >= 80 else 8)  # the loop may be unrolled
    assert products % (4 if arch >= 80 else 8) == 0
    assert count(instructions, "LDSM") == 2 * steps
    halves = count(instructions, "HADD2") + count(instructions, "HFMA2")
    assert 16 * steps <= halves <= 17 * steps + 4


@pytest.mark.parametrize("arch", ARCHS)
def test_attention_reads_16_bytes_at_a_time(arch: int) -> None:
    _, made = compiled(arch)
    for storage, loads in enumerate((8, 8, 4)):
        instructions = made[f"attn_decode<{storage}>"]
        assert count(instructions, "LDG", "128", "NA") + count(instructions, "LDG", "128") >= loads
