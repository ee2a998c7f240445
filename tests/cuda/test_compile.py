"""Kernels as NVIDIA's compiler makes them, for every kind of card: nothing spills, what is planned fits."""

from __future__ import annotations

import pytest

from model.kernels.nvrtc import NoKernels
from tests.cuda import cubins
from tests.cuda.compiled import compiled, count, nvrtc
from tests.cuda.instances import ARCHS, occupancy, plan
from tests.cuda.tables import COMPILED, compiled_table, in_page

try:
    VERSION = nvrtc().version
except NoKernels as error:
    pytest.skip(str(error), allow_module_level=True)
if not (cubins.tool("cuobjdump") and cubins.tool("nvdisasm")):
    pytest.skip("no cuobjdump or no nvdisasm", allow_module_level=True)


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


@pytest.mark.skipif(VERSION != (13, 0), reason="the table is that of NVRTC 13.0")
def test_the_table_of_the_page_is_what_the_compiler_makes() -> None:
    assert in_page(COMPILED) == compiled_table()
