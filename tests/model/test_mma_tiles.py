"""Tiles for matrix instructions hold what the words of the module say, and give back every bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.mma_tiles import MmaWeight, fits, fits_shape, shapes, to_mma, to_rows
from model.quantize import QuantizedWeight, quantize_int4, quantize_int4_hqq, quantize_int8


def matrix(bits: int, group: int, out: int, columns: int, zeros: bool = False) -> QuantizedWeight:
    weight = torch.randn(out, columns, generator=torch.Generator().manual_seed(out + columns))
    if bits == 8:
        return quantize_int8(weight)
    return quantize_int4_hqq(weight, group) if zeros else quantize_int4(weight, group, search=False)


def element(tiles: MmaWeight, row: int, column: int) -> int:
    """An integer, where the module says it is."""
    r, c = row % 16, column % 16
    lane = 4 * (r % 8) + c % 8 // 2
    tile = tiles.packed[row // 16, column // 64]
    if tiles.bits == 4:
        word, nibble = column % 64 // 16, r // 8 + 2 * (c // 8) + 4 * (c % 2)
        return (int(tile[16 * lane + 4 * word + nibble // 2]) >> 4 * (nibble % 2) & 15) - 8
    half, operand = column % 64 // 32, column % 32 // 16
    word = 2 * operand + c // 8
    return int(tile[512 * half + 16 * lane + 4 * word + 2 * (r // 8) + c % 2]) - 128


@pytest.mark.parametrize("bits", [4, 8])
def test_every_integer_is_where_it_is_said_to_be(bits: int) -> None:
    weight = matrix(bits, 64, 32, 256)
    tiles, integers = to_mma(weight), weight.integers()
    for row in range(32):
        for column in range(256):
            assert element(tiles, row, column) == int(integers[row, column])
    groups = 4 if bits == 4 else 1
    assert torch.equal(tiles.scale, weight.scale.t())
    assert (tuple(tiles.packed.shape), tuple(tiles.scale.shape)) == ((2, 4, 128 * bits), (groups, 32))


@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([32, 64, 128, 1024]),
    tiles=st.integers(1, 5),
    steps=st.integers(1, 4),
    zeros=st.booleans(),
)
def test_back_to_the_bit(bits: int, group: int, tiles: int, steps: int, zeros: bool) -> None:
    columns = 128 * steps
    if columns % group and group < columns:
        group = 64
    weight = matrix(bits, group, 16 * tiles, columns, zeros)
    assert fits(weight)
    packed = to_mma(weight)
    assert (packed.packed.shape, packed.scale.shape) == shapes(
        packed.bits, packed.group_size, 16 * tiles, columns
    )
    back = to_rows(packed)
    assert (back.bits, back.group_size, back.in_features) == (weight.bits, weight.group_size, columns)
    for found, wanted in ((back.packed, weight.packed), (back.scale, weight.scale), (back.zero, weight.zero)):
        assert (found is None) == (wanted is None)
        assert found is None or wanted is None or torch.equal(found, wanted)
    some = packed.rows(5, 16 * tiles - 3)
    assert torch.equal(some.packed, weight.packed[5:-3])
    assert torch.equal(some.scale, weight.scale[5:-3])


def test_large_matrices_are_reordered_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(4, 64, 80, 256)
    whole = to_mma(weight)
    monkeypatch.setattr("model.mma_tiles._AT_ONCE", 4096)
    assert torch.equal(to_mma(weight).packed, whole.packed)
    assert torch.equal(to_rows(whole).packed, weight.packed)


def test_what_does_not_fit() -> None:
    assert not fits_shape(4, 64, 60, 128)  # rows
    assert not fits_shape(4, 64, 64, 192)  # columns
    assert not fits_shape(4, 96, 64, 384)  # tiles would straddle groups
    assert not fits_shape(8, 64, 64, 128)  # INT8 has one scale a row
    assert fits_shape(4, 128, 64, 128)
    exact = matrix(4, 64, 16, 128)
    inexact = QuantizedWeight(4, 64, 128, exact.packed, exact.scale.float() * 1.0001)
    assert not fits(inexact)
    with pytest.raises(ValueError, match="no MMA tiles"):
        to_mma(inexact)
