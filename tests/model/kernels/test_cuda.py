"""Kernels for cards without a card: the true compiler, a driver that stands in, a cache in every state."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from model.kernels.cubin_cache import CubinCache
from model.kernels.cuda import CudaKernels, Sources, open_cuda, source_folder
from model.kernels.driver import Driver
from model.kernels.nvrtc import NoKernels, Nvrtc, open_nvrtc
from model.types import ModelError

try:
    NVRTC = open_nvrtc()
except NoKernels as error:
    pytest.skip(str(error), allow_module_level=True)
COMPILER = shutil.which("g++")
if COMPILER is None:
    pytest.skip("no g++: nothing can stand in for the driver", allow_module_level=True)

KERNEL = """
#include "own.cuh"
template <int n> SIMT_KERNEL(32, f(1)) add(float* y, int i, float x, float* nothing) { y[i] = x + n; }
SIMT_KERNEL(32, 1) other(float* y, int i, float x, float* nothing) { y[i] = x; }
"""
HEADER = "#define SIMT_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads)\n"
FAILS = "GLMBOT_STAND_IN_FAILS"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("driver") / "libcuda.so"
    source = Path(__file__).with_name("stand_in_driver.cpp")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-w", source, "-o", file], check=True)
    return file


@pytest.fixture
def told(library: Path) -> Callable[[], list[str]]:
    """What the driver was told."""
    opened = ctypes.CDLL(str(library))
    opened.stand_in_log.restype = ctypes.c_char_p
    opened.stand_in_reset()
    return lambda: opened.stand_in_log().decode().splitlines()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "some.cu").write_text(KERNEL, encoding="utf-8")
    (folder / "own.cuh").write_text(HEADER, encoding="utf-8")
    return folder


Open = Callable[..., CudaKernels]


@pytest.fixture
def open_kernels(library: Path, sources: Path, tmp_path: Path) -> Open:
    def open_on(arch: int = 86, cache: Path | None = None, nvrtc: Nvrtc = NVRTC) -> CudaKernels:
        return CudaKernels(
            name="a card",
            arch=arch,
            multiprocessors=4,
            stream=lambda: 99,
            driver=Driver(str(library)),
            nvrtc=nvrtc,
            sources=Sources(sources),
            cache=CubinCache(cache or tmp_path / "cache"),
        )

    return open_on


def launch(kernels: CudaKernels, y: torch.Tensor, **options: int) -> None:
    kernels.launch("add<3>", (1, 2, 3), 32, y, -5, 1.5, None, **options)


# -- the compiler ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [75, 86, 89, 90, 120])
def test_a_cubin_for_each_card(arch: int) -> None:
    done = NVRTC.compile(
        KERNEL.replace("f(1)", "1"), "some.cu", {"own.cuh": HEADER}, ["add<3>", "other"], arch
    )
    assert done.cubin.startswith(b"\x7fELF")
    assert done.names["add<3>"].startswith("_Z3addILi3E")
    assert arch in NVRTC.archs
    assert NVRTC.version >= (12, 0)


def test_what_does_not_compile_is_told_as_the_compiler_says_it() -> None:
    with pytest.raises(ModelError, match=r"some.cu does not compile for sm_86:\n.*identifier"):
        NVRTC.compile("__global__ void f() { g(); }", "some.cu", {}, ["f"], 86)


def test_the_compiler_looks_at_no_header_of_the_machine() -> None:
    with pytest.raises(ModelError, match="no directories in search list"):
        NVRTC.compile("#include <cuda_fp16.h>", "some.cu", {}, [], 86)


# -- launching ------------------------------------------------------------------------------


def test_arguments_reach_the_kernel(open_kernels: Open, told: Callable[[], list[str]]) -> None:
    y = torch.zeros(4)
    launch(open_kernels(), y)
    assert told()[-1] == (
        f"launch _Z3addILi3EEvPfifS0_ 1 2 3 32 1 1 shared 0 stream 99"
        f" pointer {y.data_ptr():x} integer -5 float 1.5 null 0"
    )


def test_much_shared_memory_is_asked_for_once(open_kernels: Open, told: Callable[[], list[str]]) -> None:
    kernels, y = open_kernels(), torch.zeros(4)
    for shared in (48 << 10, 50_000, 50_000, 60_000, 49_500):
        launch(kernels, y, shared=shared)
    assert [line for line in told() if "attribute" in line] == ["attribute 8 50000", "attribute 8 60000"]


def test_every_thread_enters_the_cards_context(open_kernels: Open, told: Callable[[], list[str]]) -> None:
    kernels, y = open_kernels(), torch.zeros(4)
    launch(kernels, y)
    threads = [threading.Thread(target=launch, args=(kernels, y)) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert sum(line.startswith("enter") for line in told()) == 3
    assert sum(line.startswith("launch") for line in told()) == 3


def test_arguments_that_no_kernel_takes(open_kernels: Open) -> None:
    kernels = open_kernels()
    with pytest.raises(OverflowError, match="no 32-bit integer"):
        kernels.launch("other", (1, 1, 1), 32, torch.zeros(1), 2**31, 1.0, None)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.launch("other", (1, 1, 1), 32, torch.zeros(4, 4).t(), 0, 1.0, None)


# -- the cache ------------------------------------------------------------------------------


def compiled_again(kernels: CudaKernels, names: tuple[str, ...] = ("add<3>", "other")) -> int:
    with capture_logs() as logs:
        kernels.prepare(names)
    return next(line["compiled"] for line in logs if line["event"] == "kernels are loaded")


def test_what_was_compiled_is_kept(open_kernels: Open, sources: Path) -> None:
    assert compiled_again(open_kernels()) == 1
    assert compiled_again(open_kernels()) == 0
    assert compiled_again(open_kernels(arch=89)) == 1  # another card
    assert compiled_again(open_kernels(), ("add<4>",)) == 1  # other kernels
    (sources / "own.cuh").write_text(HEADER + "\n", encoding="utf-8")
    assert compiled_again(open_kernels()) == 1  # other sources
    assert compiled_again(open_kernels()) == 0


@pytest.mark.parametrize("damage", [b"", b"glmbot", None])
def test_a_damaged_file_is_made_anew(open_kernels: Open, tmp_path: Path, damage: bytes | None) -> None:
    open_kernels().prepare(["other"])
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert compiled_again(open_kernels(), ("other",)) == 1
    assert file.read_bytes() == whole
    assert compiled_again(open_kernels(), ("other",)) == 0


def test_a_folder_that_cannot_be_written_is_told_once(open_kernels: Open, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kernels = open_kernels(cache=tmp_path / "file" / "cache")
    with capture_logs() as logs:
        kernels.prepare(["add<3>"])
        kernels.prepare(["other"])
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "GLMBOT_CUDA_CACHE" in warnings[0]["remedy"]
    launch(kernels, torch.zeros(1))


# -- what can be missing --------------------------------------------------------------------


def test_cards_that_the_compiler_does_not_know(open_kernels: Open) -> None:
    for arch in (61, 999):
        with pytest.raises(NoKernels, match=f"compute capability {arch / 10:.1f}") as caught:
            open_kernels(arch=arch).prepare(["other"])
        assert "PyTorch alone" in str(caught.value)


def test_no_driver() -> None:
    with pytest.raises(NoKernels, match="driver was not found") as caught:
        Driver("libno-such-driver.so")
    assert "model.device" in str(caught.value)


def test_a_card_that_another_process_keeps(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    def busy(device: torch.device) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with ...")

    monkeypatch.setattr("model.kernels.cuda.Driver", lambda: Driver(str(library)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", busy)
    with pytest.raises(NoKernels, match="busy or unavailable; see that nvidia-smi works"):
        open_cuda(torch.device("cuda"))


@pytest.mark.parametrize(
    ("fails", "problem", "remedy"),
    [
        ("cuInit=100", "the driver does not start", "nvidia-smi"),
        (
            "cuModuleLoadData=209",
            "the driver, which knows CUDA 13.0, does not load",
            "update NVIDIA's driver",
        ),
        ("cuModuleLoadData=2", "does not load", "close other programs"),
        ("cuLaunchKernel=700", "add<3> cannot be launched", "model.device cpu"),
        ("cuFuncSetAttribute=1", "no 90,000 bytes of shared memory", "nvidia-smi"),
    ],
)
def test_what_the_driver_refuses(
    open_kernels: Open, monkeypatch: pytest.MonkeyPatch, fails: str, problem: str, remedy: str
) -> None:
    monkeypatch.setenv(FAILS, fails)
    with pytest.raises(ModelError, match=problem) as caught:
        launch(open_kernels(), torch.zeros(1), shared=90_000)
    assert remedy in str(caught.value)
    assert f"CUDA_ERROR_STAND_IN error {fails.partition('=')[2]}" in str(caught.value)


def test_an_error_that_the_driver_has_no_name_for(
    open_kernels: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAILS, "cuLaunchKernel=9999")
    with pytest.raises(ModelError, match="add<3> cannot be launched: error 9999;"):
        launch(open_kernels(), torch.zeros(1))


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(NoKernels, match="holds no sources"):
        Sources(tmp_path)


def test_all_kernels_of_this_project_are_found() -> None:
    found = Sources(source_folder())
    assert {
        "linear_sums",
        "linear_gelu",
        "head_logits",
        "embed",
        "attn_decode",
        "attn_combine",
    } <= found.kernels
    assert {"rope_kv", "layer_norm", "add_bias", "sample", "dequantize"} <= found.kernels
    assert found.file_of("linear_sums<4, false, false, 1, 4>") == "w4_linear.cu"
