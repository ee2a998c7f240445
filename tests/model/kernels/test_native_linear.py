"""The arithmetic of the native linear layers, matrices into tiles and back, and threads that wait."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int64
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.library import GlmMatrix, Library, Pool
from model.kernels.native import Native
from model.kernels.reference import Reference
from model.quantize import QuantizedWeight, dequantize, pack_int4, quantize_int4
from model.tiles import TiledWeight, block_size, to_rows, to_tiles
from tests.model.kernels.cases import Linear, linears

Bits = Literal[4, 8]
relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def random_weight(
    bits: Bits, out: int, columns: int, group: int, *, zeros: bool = False, seed: int = 0
) -> QuantizedWeight:
    """Integers over their whole range, -8 and -128 among them, and scales of either sign."""
    generator = torch.Generator().manual_seed(seed)
    end = 2 ** (bits - 1)
    integers = torch.randint(-end, end, (out, columns), dtype=torch.int8, generator=generator)
    scale = (torch.randn(out, -(-columns // group), generator=generator) * 0.01).half()
    zero = (torch.rand(scale.shape, generator=generator) * 6 - 3).half() if zeros else None
    return QuantizedWeight(bits, group, columns, pack_int4(integers) if bits == 4 else integers, scale, zero)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor, block: int) -> Tensor:
    """What is left of x after a block of columns has become -127..127 times a float32; in float64."""
    pieces = []
    for part in x.split(block, dim=1):
        largest = part.abs().amax(1, keepdim=True)
        steps = torch.full_like(largest, 127) / largest  # `127 /` would round the reciprocal, too
        codes = torch.where(largest > 0, part * steps, torch.zeros(())).round()
        pieces.append(codes.double() * (largest / 127).double())
    return torch.cat(pieces, dim=1)


def magnitudes(weight: QuantizedWeight) -> Tensor:
    """What rounding of products refers to: the integer as it is stored and the zero-point, apart."""
    parts = weight.integers().double().abs()
    if weight.zero is not None:
        zeros = weight.zero.double().abs() + 2 ** (weight.bits - 1)
        parts += zeros.repeat_interleave(weight.group_size, 1)[:, : weight.in_features]
    scale = weight.scale.double().abs()
    return parts * scale.repeat_interleave(weight.group_size, 1)[:, : weight.in_features]


def describe(weight: TiledWeight) -> GlmMatrix:
    """As the library knows it."""
    return GlmMatrix(
        weight.packed.data_ptr(),
        weight.scale.data_ptr(),
        None if weight.zero is None else weight.zero.data_ptr(),
        None,
        weight.bits,
        weight.block,
        weight.packed.shape[1],
        weight.group_blocks,
        weight.scale.shape[1],
        weight.out_features,
        weight.in_features,
    )


shapes = st.tuples(st.integers(1, 70), st.integers(1, 400))
weights = st.builds(
    lambda shape, kind, zeros, seed: random_weight(kind[0], *shape, kind[1], zeros=zeros, seed=seed),
    shapes,
    st.sampled_from([(4, 32), (4, 64), (4, 96), (4, 128), (4, 1024), (8, 64), (8, 1024)]),
    st.booleans(),
    st.integers(0, 2**31),
)


@relaxed
@given(weight=weights, tokens=st.sampled_from([1, 2, 3, 4, 5, 11, 16, 17, 40]))
def test_nothing_is_lost_after_activations_are_rounded(
    library: Library, weight: QuantizedWeight, tokens: int
) -> None:
    """The sums are exact in integers, so all that float32 adds is the rounding of a few sums of blocks."""
    x, tiles, pool = noise(tokens, weight.in_features) ** 3, to_tiles(weight), Pool(library, 2, spin_us=1)
    floats = dequantize(weight, torch.float64)
    kept = rounded(x, block_size(weight.group_size, weight.in_features))
    expected = kept @ floats.T
    bound = 1e-6 * (kept.abs() @ floats.abs().T) + 1e-12
    results = []
    for isa in library.isas:
        library.use(isa)
        y = Native(library, pool).linear(x, tiles)
        assert ((y - expected).abs() <= bound).all()
        results.append(y)
    assert all(y.equal(results[0]) for y in results)


@settings(relaxed, max_examples=150)
@given(case=linears)
def test_empty_groups_and_extreme_numbers_are_multiplied_as_the_reference_does(
    library: Library, case: Linear
) -> None:
    """Where float32 holds all that is added up; blocks of x below 1e-30 count as zero when rounded."""
    weight, x = to_rows(case.weight), case.x.double()
    if not case.exact:
        blocks = case.x.split(case.weight.block, dim=1)
        held = [torch.where(part.abs().amax(1, keepdim=True) < 1e-30, 0.0, part) for part in blocks]
        x = rounded(torch.cat(held, dim=1), case.weight.block)
    y = case(lambda exact: Native(library, Pool(library, 2, spin_us=1), exact=exact))[0]
    bias = torch.zeros(weight.out_features) if case.bias is None else case.bias
    expected = Reference(torch.float64).linear(x, weight, bias.double(), gelu=case.gelu)
    summed = x.abs() @ magnitudes(weight).T + bias.double().abs()
    known = summed < 1e37  # not so where a number is none
    assert ((y - expected).abs() <= 2e-6 * summed + 1e-35)[known].all()


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 1024)])
@pytest.mark.parametrize("lowest", [False, True])
def test_sums_of_the_largest_numbers_do_not_overflow(
    library: Library, bits: Bits, group: int, lowest: bool
) -> None:
    value = -(2 ** (bits - 1)) if lowest else 2 ** (bits - 1) - 1
    integers = torch.full((16, 1024), value, dtype=torch.int8)
    packed = pack_int4(integers) if bits == 4 else integers
    weight = QuantizedWeight(bits, group, 1024, packed, torch.ones(16, 1024 // group, dtype=torch.float16))
    tiles, pool = to_tiles(weight), Pool(library, 1)
    signs = torch.ones(3, 1024)
    signs[1] = -1
    signs[2, ::2] = -1
    for isa in library.isas:
        library.use(isa)
        y = Native(library, pool).linear(signs, tiles)
        torch.testing.assert_close(
            y, (signs.sum(1, keepdim=True) * value).expand(3, 16), rtol=1e-6, atol=1e-3
        )


@pytest.mark.parametrize(("power", "bound"), [(1, 1e-2), (3, 1.5e-2)])
def test_heavy_tails_of_weights_cost_nothing_and_those_of_activations_little(
    library: Library, power: int, bound: float
) -> None:
    weight, x = quantize_int4(noise(96, 4096, seed=1) ** 3), noise(8, 4096) ** power
    y = Native(library, Pool(library, 1)).linear(x, to_tiles(weight))
    expected = x @ dequantize(weight).T
    assert (y - expected).norm() < bound * expected.norm()


def test_layer_norm_may_write_over_what_it_reads(library: Library) -> None:
    x, y = noise(5, 70), noise(5, 70, seed=1)
    factor, bias, pool = noise(70, seed=2), noise(70, seed=3), Pool(library, 2, spin_us=1)
    expected = torch.nn.functional.layer_norm((7.5 * x + y).double(), (70,), factor.double(), bias.double())
    for isa in library.isas:
        library.use(isa)
        for place in (torch.empty(5, 70), x.clone(), y.clone()):
            from_x = place if place.equal(x) else x
            from_y = place if place.equal(y) else y
            library.c.glm_norm(
                pool.handle,
                from_x.data_ptr(),
                from_y.data_ptr(),
                7.5,
                factor.data_ptr(),
                bias.data_ptr(),
                1e-5,
                5,
                70,
                place.data_ptr(),
            )
            torch.testing.assert_close(place.double(), expected, rtol=1e-5, atol=1e-5)


def test_calls_from_several_threads_wait_for_each_other(library: Library) -> None:
    operations = Native(library, Pool(library, 3, spin_us=1))
    tiles = [to_tiles(random_weight(4, 64, 512, 64, seed=seed)) for seed in range(4)]
    inputs = [noise(tokens, 512) for tokens in (1, 30, 7, 16)]
    alone = [operations.linear(x, weight) for x, weight in zip(inputs, tiles, strict=True)]

    def calls(number: int) -> bool:
        return all(operations.linear(inputs[number], tiles[number]).equal(alone[number]) for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(calls, range(4)))


@pytest.mark.skipif(sys.platform == "win32", reason="reads the processor time of all threads")
def test_threads_that_wait_cost_nothing(library: Library) -> None:
    operations = Native(library, Pool(library, 3, spin_us=1000))
    operations.linear(noise(20, 512), to_tiles(random_weight(4, 64, 512, 64)))
    time.sleep(0.02)  # longer than they spin
    before = os.times()
    time.sleep(0.2)
    after = os.times()
    assert after.user + after.system - before.user - before.system <= 0.05


def test_probes_tell_what_the_machine_can_do(library: Library) -> None:
    memory, pool = torch.zeros(1 << 20, dtype=torch.uint8), Pool(library, 2, spin_us=1)
    for isa in library.isas:
        library.use(isa)
        macs = c_int64()
        assert library.c.glm_probe_read(pool.handle, memory.data_ptr(), memory.numel()) > 0
        assert library.c.glm_probe_dot(pool.handle, 1_000, byref(macs)) > 0
        assert macs.value % 2_000 == 0 < macs.value
