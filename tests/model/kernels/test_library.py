"""The native library as ctypes opens it: against its header, missing, stale, forced, and its threads."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.kernels import library as module
from model.kernels.library import (
    ABI,
    FILE,
    FUNCTIONS,
    ISA_VARIABLE,
    THREADS_VARIABLE,
    GlmBlock,
    GlmMatrix,
    GlmPages,
    Library,
    NoLibrary,
    Pool,
    default_threads,
    open_library,
    usable_cores,
)
from model.types import ModelError

HEADER = re.sub(r"/\*.*?\*/", "", FILE.with_name("glm_cpu.h").read_text(encoding="utf-8"), flags=re.DOTALL)
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "glm_matrix": GlmMatrix,
    "glm_pages": GlmPages,
    "glm_block": GlmBlock,
}
SCALARS = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "void": None,
}


def as_ctypes(declared: str) -> object:
    """What ctypes calls a type of the header; a parameter's name may follow it."""
    kind = declared.replace("const ", "").strip()
    if "*" not in kind:
        return (SCALARS | STRUCTURES)[kind.split()[0]]
    pointed = kind.partition("*")[0].strip()
    if pointed in STRUCTURES:
        return ctypes.POINTER(STRUCTURES[pointed])
    return ctypes.c_char_p if pointed == "char" else ctypes.c_void_p


def address(kind: object) -> object:
    """A pointer to a number is an address, too."""
    return ctypes.c_void_p if kind == ctypes.POINTER(ctypes.c_int64) else kind


def test_signatures_are_those_of_the_header() -> None:
    declared = {}
    for result, name, parameters in re.findall(r"GLM_API\s+([\w\s*]+?)(\w+)\(([^)]*)\);", HEADER):
        taken = [] if parameters.strip() == "void" else parameters.split(",")
        declared[name] = (as_ctypes(result), [as_ctypes(parameter) for parameter in taken])
    typed = {
        name: (result, [address(kind) for kind in arguments])
        for name, (result, arguments) in FUNCTIONS.items()
    }
    assert typed == declared
    assert re.findall(r"#define GLM_ABI (\d+)", HEADER) == [str(ABI)]


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_the_fields_of_the_header(name: str) -> None:
    body = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", HEADER)[0]
    declared = [
        (field.split("*")[-1].split()[-1], as_ctypes(field)) for field in body.split(";") if field.strip()
    ]
    assert list(STRUCTURES[name]._fields_) == declared


def test_a_function_computes_through_its_signature(library: Library) -> None:
    x, weight, bias, out = (ctypes.c_float * 4)(1, 2, 3, 6), (ctypes.c_float * 4)(1, 1, 1, 2), None, None
    bias, out = (ctypes.c_float * 4)(0, 0, 0, 1), (ctypes.c_float * 4)()
    library.c.glm_norm(
        *(Pool(library, 1).handle, ctypes.addressof(x), None, 2.0),
        *(ctypes.addressof(weight), ctypes.addressof(bias), 0.0, 1, 4, ctypes.addressof(out)),
    )
    deviation = 3.5**0.5
    assert list(out) == pytest.approx([-2 / deviation, -1 / deviation, 0, 6 / deviation + 1], abs=1e-5)


# -- instruction sets ------------------------------------------------------------------------


def test_the_best_instruction_set_is_used_and_scalar_is_always_there(library: Library) -> None:
    assert library.isa == library.isas[0]
    assert library.isas[-1] == "scalar"


def test_a_variable_forces_an_instruction_set(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in reversed(library.isas):
        monkeypatch.setenv(ISA_VARIABLE, isa)
        assert open_library().isa == isa


def test_an_instruction_set_that_is_not_there_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    with pytest.raises(ModelError, match=f"{ISA_VARIABLE}.*'sse9'.*scalar") as caught:
        open_library()
    assert not isinstance(caught.value, NoLibrary)
    assert library.isa == library.isas[0]


# -- what is no library ----------------------------------------------------------------------


def test_a_library_that_was_not_built_says_why(tmp_path: Path) -> None:
    file = tmp_path / FILE.name
    with pytest.raises(NoLibrary, match=r"not built .*; with a C.. compiler at hand: install glmbot anew"):
        Library(file)
    file.with_name("not_built.txt").write_text("g++ was not found at the installation\n", encoding="utf-8")
    file.with_name("glm_cpu.h").touch()
    with pytest.raises(NoLibrary) as caught:
        Library(file)
    assert caught.value.problem == "the native library is not built (g++ was not found at the installation)"
    assert caught.value.remedy == "with a C++ compiler at hand: pip install -e ."


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / FILE.name
    file.write_text("not built for this machine", encoding="utf-8")
    with pytest.raises(NoLibrary, match=f"^{re.escape(FILE.name)} cannot be opened: .*install glmbot anew"):
        Library(file)


def test_a_library_of_another_version_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABI", ABI + 1)
    with pytest.raises(
        NoLibrary, match=rf"{re.escape(FILE.name)} .*{ABI} instead of {ABI + 1}.*pip install -e \."
    ):
        open_library()


def test_a_foreign_library_is_refused(tmp_path: Path) -> None:
    import _ctypes

    if not hasattr(_ctypes, "__file__"):
        pytest.skip("this Python has no extension module to take for a library")
    file = tmp_path / FILE.name
    shutil.copy(_ctypes.__file__, file)
    with pytest.raises(NoLibrary, match="interface none"):
        Library(file)


def test_opening_needs_no_torch_and_starts_no_process() -> None:
    code = """
import json, sys
starts = []
def look(event, arguments):
    if event in ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen"):
        starts.append(event)
sys.addaudithook(look)
from model.kernels.library import NoLibrary, Pool, open_library
try:
    Pool(open_library())
except NoLibrary:
    pass
print(json.dumps([starts, "torch" in sys.modules, "subprocess" in sys.modules]))
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout) == [[], False, False]


# -- threads ---------------------------------------------------------------------------------


def test_a_pool_has_the_threads_that_are_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pool(library, 3).threads == 3
    monkeypatch.setenv(THREADS_VARIABLE, "2")
    assert Pool(library).threads == 2
    monkeypatch.delenv(THREADS_VARIABLE)
    assert Pool(library).threads == usable_cores()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_pool_that_is_closed_or_forgotten_ends_its_threads(library: Library) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    pool = Pool(library, 4)
    assert threads() == before + 3
    pool.close()
    pool.close()
    assert threads() == before
    other = Pool(library, 3)
    assert threads() == before + 2
    del other
    assert threads() == before


@pytest.mark.parametrize("asked", ["0", "two", "-1", "4096"])
def test_a_number_of_threads_that_is_none_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, asked)
    with pytest.raises(ModelError, match=f"{THREADS_VARIABLE}.*{asked}"):
        default_threads()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of a machine of eight cores whose control groups a test writes."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/shop").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("group", "limit", "cores"),
    [
        ("0::/shop", "300000 100000", 3),
        ("0::/shop", "350000 100000", 3),
        ("0::/shop", "50000 100000", 1),
        ("0::/shop", "9900000 100000", 8),
        ("0::/shop", "max 100000", 8),
        ("0::/", "200000 100000", 8),
        ("4:cpu:/shop", "200000 100000", 8),
        ("0::/shop", "", 8),
    ],
)
def test_a_quota_bounds_the_cores(machine: Path, group: str, limit: str, cores: int) -> None:
    (machine / "proc/self/cgroup").write_text(f"{group}\n")
    (machine / "sys/fs/cgroup/shop/cpu.max").write_text(f"{limit}\n")
    assert usable_cores(machine) == cores


def test_without_control_groups_the_affinity_counts(machine: Path) -> None:
    assert usable_cores(machine) == 8
