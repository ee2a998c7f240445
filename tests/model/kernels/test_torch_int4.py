"""PyTorch's INT4 operator against the reference: what it takes, and what it leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.reference import Reference
from model.kernels.torch_int4 import TorchInt4, TorchWeight, is_available
from model.mma_tiles import to_mma
from model.quantize import QuantizedWeight, from_thudm, quantize_int4, quantize_int4_hqq, quantize_int8
from model.tiles import fits, to_tiles
from model.weights import Matrix

pytestmark = pytest.mark.skipif(not is_available(), reason="this PyTorch has no fast INT4 operator here")

TORCH, REFERENCE = TorchInt4(torch.float32), Reference(torch.float32)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def off(found: Tensor, expected: Tensor) -> float:
    """The error relative to what was expected, as a root of mean squares."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def check(weight: Matrix, *, packed: bool = True) -> None:
    """Multiplies as the reference does, by the operator or not."""
    columns = weight.shape[1] if isinstance(weight, Tensor) else weight.in_features
    x = noise(5, columns, seed=7)
    prepared = TORCH.prepare(weight)
    assert isinstance(prepared, TorchWeight) == packed
    assert off(TORCH.linear(x, prepared), REFERENCE.linear(x, weight)) < (6e-3 if packed else 1e-6)


@settings(max_examples=25)
@given(
    out=st.integers(1, 12),
    groups=st.integers(1, 5),
    group=st.sampled_from([32, 64, 128, 256]),
    hqq=st.booleans(),
)
def test_matrices_of_whole_groups_are_multiplied_by_the_operator(
    out: int, groups: int, group: int, hqq: bool
) -> None:
    values = noise(16 * out, groups * group, seed=out)
    check(quantize_int4_hqq(values, group) if hqq else quantize_int4(values, group, search=False))


@pytest.mark.parametrize("columns", [64, 96, 512, 1536])
def test_a_row_with_one_scale_is_cut_into_groups(columns: int) -> None:
    packed = torch.randint(-128, 128, (48, columns // 2), generator=torch.Generator().manual_seed(1))
    check(from_thudm(packed.to(torch.int8), noise(48).abs().half(), 4))


def test_wider_groups_are_cut() -> None:
    check(quantize_int4(noise(32, 1024), 512, search=False))


def test_more_rows_than_are_packed_at_once_stay_in_their_order() -> None:
    check(quantize_int4(noise(4096 + 80, 64), 32, search=False))


def test_a_matrix_in_tiles_is_taken_out_of_them() -> None:
    weight = quantize_int4(noise(40, 128), 64, search=False)
    assert fits(weight)
    check(to_tiles(quantize_int4(noise(48, 128), 64, search=False)))
    check(to_tiles(weight), packed=False)


@pytest.mark.parametrize(
    "weight",
    [
        noise(32, 64),
        noise(32, 64, dtype=torch.float16),
        quantize_int8(noise(32, 64)),
        quantize_int4(noise(33, 64), 32),
        quantize_int4(noise(32, 80), 32),
        quantize_int4(noise(32, 48), 48),
        quantize_int4(noise(32, 64), 16),
    ],
    ids=["float32", "float16", "INT8", "odd rows", "a short group", "a short row", "narrow groups"],
)
def test_what_the_operator_does_not_take_is_the_references(weight: Tensor | QuantizedWeight) -> None:
    assert TORCH.prepare(weight) is weight
    check(weight, packed=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bias_and_gelu_come_after_it(dtype: torch.dtype) -> None:
    x, weight, bias = noise(3, 64).to(dtype), quantize_int4(noise(32, 64, seed=1), 32), noise(32, seed=2)
    prepared = TORCH.prepare(weight)
    expected = torch.nn.functional.gelu(REFERENCE.linear(x.float(), weight, bias), approximate="tanh")
    y = TORCH.linear(x, prepared, bias, gelu=True)
    assert y.dtype == dtype
    assert off(y, expected) < 1e-2


def test_the_embedding_is_read_as_by_the_reference() -> None:
    table, ids = quantize_int8(noise(64, 128)), torch.tensor([3, 49])
    for stored in (table, to_tiles(table), to_mma(table)):
        prepared = TORCH.prepare(stored)
        assert isinstance(prepared, QuantizedWeight)
        assert TORCH.embed(ids, prepared).equal(REFERENCE.embed(ids, table))
