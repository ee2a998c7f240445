"""Linear layers, embedding and LayerNorm by the native library against the reference's."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.library import Library, Pool
from model.kernels.native import Native
from model.kernels.reference import Reference
from model.mma_tiles import to_mma
from model.quantize import QuantizedWeight, dequantize, quantize_int4, quantize_int4_hqq, quantize_int8
from model.tiles import TiledWeight
from model.weights import Matrix, Norm
from tests.model.kernels.cases import LayerNorm, norms

Kind = Literal["int4", "hqq", "int8"]
Tails = Literal["none", "cubes", "student", "columns"]
REFERENCE = Reference(torch.float32)
KINDS: tuple[Kind, ...] = ("int4", "hqq", "int8")
relaxed = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def native(library: Library, threads: int = 2, isa: str | None = None, *, exact: bool = False) -> Native:
    library.use(isa or library.isas[0])
    return Native(library, Pool(library, threads, spin_us=1), exact=exact)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantised(weight: Tensor, kind: Kind, group: int = 64) -> QuantizedWeight:
    if kind == "int8":
        return quantize_int8(weight)
    return (quantize_int4 if kind == "int4" else quantize_int4_hqq)(weight, group)


def tiled(operations: Native, weight: QuantizedWeight) -> TiledWeight:
    tiles = operations.prepare(weight)
    assert isinstance(tiles, TiledWeight)
    return tiles


def error(y: Tensor, expected: Tensor) -> float:
    """Relative, over all of it."""
    return float((y - expected).norm() / expected.norm())


@relaxed
@given(
    tokens=st.integers(1, 40),
    out=st.integers(1, 70),
    columns=st.integers(1, 400),
    kind=st.sampled_from(KINDS),
    group=st.sampled_from([32, 64, 128, 1024]),
    heavy=st.booleans(),
    gelu=st.booleans(),
)
def test_a_matrix_of_any_shape_multiplies_as_by_the_reference(
    library: Library, tokens: int, out: int, columns: int, kind: Kind, group: int, heavy: bool, gelu: bool
) -> None:
    floats = noise(out, columns, seed=1)
    weight = quantised(floats**3 if heavy else floats, kind, group)
    x, bias = noise(tokens, columns), noise(out, seed=2)
    expected = REFERENCE.linear(x, weight, bias, gelu=gelu)
    magnitudes = dequantize(weight).abs()
    exact = native(library, exact=True)
    off = exact.linear(x, tiled(exact, weight), bias, gelu=gelu) - expected
    assert (off.abs() <= 1e-6 * (x.abs() @ magnitudes.T + 10)).all()
    rounded = native(library)
    off = rounded.linear(x, tiled(rounded, weight), bias, gelu=gelu) - expected
    half_a_step = x.abs().amax(1, keepdim=True) / 254
    assert (off.abs() <= 1.14 * half_a_step * magnitudes.sum(1) + 1e-4).all()  # GELU is no steeper than 1.13


def heavy_tailed(out: int, columns: int, tails: Tails) -> Tensor:
    """Random weights; cubes: of normal ones; student: of two degrees of freedom; columns: some are large."""
    floats = noise(out, columns, seed=1)
    if tails == "cubes":
        return floats**3
    if tails == "student":
        return floats / (noise(2, out, columns, seed=2).square().mean(0)).sqrt()
    if tails == "columns":
        floats[:, ::100] *= 10
    return floats


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tails", ["none", "cubes", "student", "columns"])
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_activations_in_eight_bits_cost_less_than_a_percent(
    library: Library, kind: Kind, tails: Tails, tokens: int
) -> None:
    """Of the result, whatever tails the weights have, and never nothing."""
    operations, weight = native(library), quantised(heavy_tailed(96, 1_024, tails), kind)
    x = noise(tokens, 1_024)
    found = error(operations.linear(x, tiled(operations, weight)), REFERENCE.linear(x, weight))
    assert 1e-4 < found <= 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [False, True])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(
    library: Library, kind: Kind, exact: bool
) -> None:
    weight, x, bias = quantised(noise(75, 330, seed=1), kind), noise(37, 330), noise(75, seed=2)
    results = []
    for isa in library.isas:
        for threads in (1, 2, 3):
            operations = native(library, threads, isa, exact=exact)
            results.append(operations.linear(x, tiled(operations, weight), bias, gelu=True))
    for result in results:
        assert result.equal(results[0])


@pytest.mark.parametrize("exact", [False, True])
def test_a_token_gets_the_same_bits_alone_and_in_a_batch(library: Library, exact: bool) -> None:
    operations, weight = native(library, exact=exact), quantize_int4(noise(80, 256, seed=1))
    tiles, x = tiled(operations, weight), noise(300, 256)
    together = operations.linear(x, tiles)
    for rows in (slice(0, 1), slice(3, 7), slice(100, 130), slice(299, 300)):
        assert operations.linear(x[rows], tiles).equal(together[rows])


@pytest.mark.parametrize("isa", [0, -1])
@pytest.mark.parametrize("exact", [False, True])
def test_blocks_of_zeros_and_extreme_activations(library: Library, isa: int, exact: bool) -> None:
    floats = noise(40, 256, seed=1)
    floats[3] = 0
    floats[:, 64:128] = 0
    weight = quantize_int4(floats)
    operations = native(library, isa=library.isas[isa], exact=exact)
    for scale in (0.0, 1e-38, 1e-20, 1.0, 1e20):
        x = noise(3, 256) * scale
        x[:, :64] = 0
        y, expected = operations.linear(x, tiled(operations, weight)), REFERENCE.linear(x, weight)
        assert y[:, 3].eq(0).all()
        # what is too small for a reciprocal counts as zero
        assert (y - expected).norm() <= 2e-2 * expected.norm() + 1e-27


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_spoil_their_own_row(
    library: Library, exact: bool, bad: float
) -> None:
    operations, x = native(library, exact=exact), noise(6, 256)
    x[4, 70] = bad
    y = operations.linear(x, tiled(operations, quantize_int4(noise(40, 256, seed=1))))
    assert not y[4].isfinite().any()
    assert y[[0, 1, 2, 3, 5]].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_gives_rows_as_the_reference_does(library: Library, kind: Kind) -> None:
    operations, table = native(library), quantised(noise(100, 192), kind)
    ids = torch.tensor([0, 99, 5, 5, 17])
    rows = operations.embed(ids, tiled(operations, table))
    assert rows.equal(REFERENCE.embed(ids, table))


@relaxed
@given(
    tokens=st.integers(1, 9),
    width=st.integers(1, 300),
    shift=st.sampled_from([0.0, 3.0, 1e3]),
)
def test_layer_norm_is_the_references(library: Library, tokens: int, width: int, shift: float) -> None:
    operations, x, y = native(library), noise(tokens, width) + shift, noise(tokens, width, seed=1)
    norm = Norm(noise(width, seed=2), noise(width, seed=3))
    near = {"atol": 1e-4 * (1 + shift), "rtol": 1e-4}
    torch.testing.assert_close(operations.norm(x, norm, 1e-5), REFERENCE.norm(x, norm, 1e-5), **near)
    ours = operations.residual_norm(x, y, 7.5, norm, 1e-5)
    torch.testing.assert_close(ours, REFERENCE.residual_norm(x, y, 7.5, norm, 1e-5), **near)


@relaxed
@given(case=norms)
def test_layer_norm_of_rows_of_any_magnitude(library: Library, case: LayerNorm) -> None:
    """Where squares fit into float32; a row that is constant, or nearly, has nothing left but its bias."""
    out = case(lambda _: native(library))[0]
    x, largest = case.x.double(), case.x.abs().amax(1)
    if case.y is not None:
        x, largest = case.alpha * x + case.y.double(), torch.maximum(largest, case.y.abs().amax(1))
    weight, bias = case.norm.weight.double(), case.norm.bias.double()
    expected = torch.nn.functional.layer_norm(x, x.shape[1:], weight, bias, 1e-5)
    steps = largest[:, None].double() / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    bound = weight.abs() * 1e-5 * (1 + steps) + 1e-6 * bias.abs()
    known = (largest[:, None] < 1e17) & (weight.abs() < 1e30) & (bias.abs() < 1e37)
    assert ((out - expected).abs() <= bound + 1e-35)[known].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_graphics_cards_is_put_into_tiles(library: Library, kind: Kind) -> None:
    operations, weight = native(library), quantised(noise(48, 256), kind)
    found, wanted = operations.prepare(to_mma(weight)), tiled(operations, weight)
    assert isinstance(found, TiledWeight)
    assert found.packed.equal(wanted.packed)
    assert found.scale.equal(wanted.scale)


def test_what_has_no_tiles_is_left_to_the_reference(library: Library) -> None:
    operations, x, ids = native(library), noise(3, 100), torch.tensor([4, 2])
    floats = noise(20, 100, seed=1)
    odd = quantize_int4(floats, 20)
    wide = replace(
        quantize_int4(floats), scale=noise(20, 2, seed=2) * 0.01
    )  # float32, as early files have it
    matrices: list[Matrix] = [floats, floats.half(), odd, wide]
    for matrix in matrices:
        assert operations.prepare(matrix) is matrix
        assert operations.linear(x, matrix).equal(REFERENCE.linear(x, matrix))
        assert operations.embed(ids, matrix).equal(REFERENCE.embed(ids, matrix))


def test_tensors_of_other_types_and_strides_are_taken(library: Library) -> None:
    operations, x = native(library), noise(128, 6)
    weight = tiled(operations, quantize_int4(noise(40, 128, seed=1)))
    bias = noise(40, seed=2).half()
    expected = operations.linear(x.T.contiguous(), weight, bias.float())
    assert operations.linear(x.T, weight, bias).equal(expected)
    norm = Norm(noise(128, seed=3), noise(128, seed=4))
    halves = Norm(norm.weight.half(), norm.bias.half())
    rounded = Norm(halves.weight.float(), halves.bias.float())
    assert operations.norm(x.T, halves, 1e-5).equal(operations.norm(x.T.contiguous(), rounded, 1e-5))


def test_nothing_comes_of_nothing(library: Library) -> None:
    operations = native(library)
    weight = tiled(operations, quantize_int4(noise(40, 128, seed=1)))
    assert operations.linear(noise(0, 128), weight).shape == (0, 40)
    assert operations.embed(torch.tensor([], dtype=torch.int64), weight).shape == (0, 128)
