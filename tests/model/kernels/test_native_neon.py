"""The library built for ARM gives the bits of this machine's: NEON and plain C++ on an emulated processor."""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from model.kernels.library import Library, Pool
from model.kernels.native import Native
from model.kv_cache import KVBatch, KVPages
from model.tiles import TiledWeight
from model.weights import Norm
from tests.model.kernels.cases import (
    STORAGES,
    Attention,
    Bits,
    Case,
    ContextAttention,
    LayerNorm,
    Linear,
    Numbers,
    RopeKV,
    attentions,
    contexts,
    linears,
    matrix,
    norms,
    plain,
    ropes,
    same_bits,
)

if platform.machine() in ("aarch64", "arm64"):
    pytest.skip("this is an ARM machine: test_native_isas.py has its NEON", allow_module_level=True)
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
if not COMPILER or not EMULATOR:
    pytest.skip("no aarch64-linux-gnu-g++ or no qemu-aarch64", allow_module_level=True)

ROOT = Path(__file__).parents[3]
NATIVE = ROOT / "model/kernels/native"
WAYS = (("neon", 1), ("neon", 3), ("scalar", 2))
"""Instruction sets and threads."""
relaxed = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def release_flags() -> list[str]:
    """UNIX_FLAGS of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "UNIX_FLAGS":
            flags: list[str] = ast.literal_eval(node.value)
            return flags
    raise AssertionError("setup.py has no UNIX_FLAGS")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and neon_driver.cpp as one program."""
    folder = tmp_path_factory.mktemp("neon")
    flags = [*release_flags(), f"-I{NATIVE}"]

    def compiled(source: Path) -> Path:
        done = subprocess.run(
            [str(COMPILER), *flags, "-c", source, "-o", folder / f"{source.stem}.o"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return folder / f"{source.stem}.o"

    sources = [*NATIVE.glob("*.cpp"), Path(__file__).with_name("neon_driver.cpp")]
    sources.sort(key=lambda source: "neon" not in source.stem)  # the longest first
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        objects = list(threads.map(compiled, sources))
    program = folder / "driver"
    subprocess.run([str(COMPILER), "-static", "-pthread", *objects, "-o", program], check=True)
    return program


@dataclass(frozen=True)
class Emulated:
    """Operations by the driver, on an instruction set and with some threads."""

    driver: Path
    isa: str
    threads: int
    exact: bool = False

    def linear(
        self, x: Tensor, weight: TiledWeight, bias: Tensor | None = None, *, gelu: bool = False
    ) -> Tensor:
        y = torch.empty(len(x), weight.out_features)
        flags = (1 if self.exact else 0) | (2 if gelu else 0)
        self._call("linear", [*_shape(weight), len(x), flags], [*_arrays(weight), bias, x, y])
        return y

    def embed(self, ids: Tensor, table: TiledWeight) -> Tensor:
        y = torch.empty(len(ids), table.in_features)
        self._call("embed", [*_shape(table), len(ids)], [*_arrays(table), None, ids, y])
        return y

    def norm(self, x: Tensor, norm: Norm, epsilon: float) -> Tensor:
        return self._norm(x, None, 1.0, norm, epsilon)

    def residual_norm(self, x: Tensor, y: Tensor, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        return self._norm(x, y, alpha, norm, epsilon)

    def _norm(self, x: Tensor, y: Tensor | None, alpha: float, norm: Norm, epsilon: float) -> Tensor:
        out, factors = torch.empty(x.shape), torch.tensor([alpha, epsilon])
        self._call("norm", [*x.shape], [x, y, norm.weight, norm.bias, factors, out])
        return out

    def rope_kv(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, pages: KVPages, slots: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = (len(qkv), pages.heads, pages.head_size)
        query, key, value = torch.empty(shape), torch.empty(shape), torch.empty(shape)
        self._call(
            "rope_kv",
            [*_pages_shape(pages), layer, cos.shape[1], len(qkv)],
            [pages.data, pages.scale, pages.zero, qkv, cos, sin, slots, query, key, value],
        )
        return query, key, value

    def attention(self, query: Tensor, batch: KVBatch, layer: int) -> Tensor:
        pages, out = batch.pages, torch.empty(len(query), query.shape[1] * query.shape[2])
        self._call(
            "attention",
            [*_pages_shape(pages), layer, len(batch.lengths)],
            [pages.data, pages.scale, pages.zero, query, batch.tables, batch.sequences, out],
        )
        return out

    def context_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty(len(query), query.shape[1] * query.shape[2])
        self._call("context_attention", [len(query), len(key), *query.shape[1:]], [query, key, value, out])
        return out

    def _call(self, function: str, integers: list[int], arrays: list[Tensor | None]) -> None:
        """Arrays become what the function leaves in them."""
        sent = [np.array([len(integers), *integers, len(arrays)], dtype=np.int64).tobytes()]
        for array in arrays:
            content = b"" if array is None else array.contiguous().numpy().tobytes()
            sent += [np.int64(len(content)).tobytes(), content]
        command = [str(EMULATOR), str(self.driver), self.isa, str(self.threads), function]
        done = subprocess.run(command, input=b"".join(sent), capture_output=True)
        assert done.returncode == 0, done
        at = 0
        for array in arrays:
            if array is not None:
                content = np.frombuffer(done.stdout, np.uint8, array.nbytes, at)
                array.copy_(torch.from_numpy(content.copy()).view(array.dtype).view(array.shape))
                at += array.nbytes
        assert at == len(done.stdout)


def _shape(weight: TiledWeight) -> list[int]:
    blocks, groups = weight.packed.shape[1], weight.scale.shape[1]
    shape = [weight.bits, weight.block, blocks, weight.group_blocks, groups]
    return [*shape, weight.out_features, weight.in_features]


def _arrays(weight: TiledWeight) -> list[Tensor | None]:
    return [weight.packed, weight.scale, weight.zero]


def _pages_shape(pages: KVPages) -> list[int]:
    return [pages.count, STORAGES.index(pages.storage), pages.heads, pages.head_size]


Check = Callable[[Case], None]


@pytest.fixture
def check(library: Library, driver: Path) -> Check:
    """Checks that a case has the same result here and on ARM."""
    pool = Pool(library, 1)

    def compare(case: Case) -> None:
        expected = case(lambda exact: Native(library, pool, exact=exact))
        for isa, threads in WAYS:
            results = case(lambda exact, isa=isa, threads=threads: Emulated(driver, isa, threads, exact))
            assert same_bits(results, expected), (isa, threads)

    return compare


@pytest.mark.parametrize(("processor", "isas"), [("max", "neon scalar"), ("cortex-a53", "scalar")])
def test_neon_is_used_where_there_are_dot_products(driver: Path, processor: str, isas: str) -> None:
    command = [str(EMULATOR), "-cpu", processor, str(driver)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == isas


@relaxed
@given(case=linears)
def test_linear_layers(check: Check, case: Linear) -> None:
    check(case)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 64)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 39])
def test_linear_layers_of_few_and_many_rows(check: Check, bits: Bits, group: int, rows: int) -> None:
    weight = matrix(bits, group, 33, 200, zeros=rows % 2 == 0)
    for numbers in (plain(), Numbers(0, halves_to=127)):
        check(Linear(numbers(rows, 200), weight, plain(1)(33), gelu=rows % 2 == 1, exact=False))


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 64)])
def test_the_embedding(library: Library, driver: Path, bits: Bits, group: int) -> None:
    table, ids = matrix(bits, group, 50, 200, zeros=True), torch.tensor([0, 49, 17, 17, -1, 50])
    expected = Native(library, Pool(library, 1)).embed(ids, table)
    assert same_bits([Emulated(driver, "neon", 1).embed(ids, table)], [expected])


@relaxed
@given(case=norms)
def test_layer_norm(check: Check, case: LayerNorm) -> None:
    check(case)


@relaxed
@given(case=ropes)
def test_rotation_and_what_is_kept_in_pages(check: Check, case: RopeKV) -> None:
    check(case)


@relaxed
@given(case=attentions)
def test_attention_to_pages(check: Check, case: Attention) -> None:
    check(case)


@relaxed
@given(case=contexts)
def test_attention_within_a_prompt(check: Check, case: ContextAttention) -> None:
    check(case)
