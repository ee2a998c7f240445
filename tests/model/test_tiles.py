"""Tiles hold the same matrix in the documented order, and give it back to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.quantize import QuantizedWeight, quantize_int4, quantize_int4_hqq, quantize_int8
from model.tiles import TILE, TiledWeight, fits, fits_shape, shapes, to_rows, to_tiles


def random_weight(
    bits: Literal[4, 8], group_size: int, out: int, columns: int, zero: bool = False
) -> QuantizedWeight:
    """Every byte is drawn, as no quantiser would fill them all."""
    generator = torch.Generator().manual_seed(out * 1000 + columns)
    width = (columns * bits + 7) // 8
    packed = torch.randint(0, 256, (out, width), generator=generator, dtype=torch.uint8)
    groups = -(-columns // group_size)
    scale = torch.randn((out, groups), generator=generator).half()
    zeros = torch.randn((out, groups), generator=generator).half() if zero else None
    return QuantizedWeight(
        bits, group_size, columns, packed if bits == 4 else packed.view(torch.int8), scale, zeros
    )


def same(found: QuantizedWeight, wanted: QuantizedWeight) -> bool:
    pairs = [(found.packed, wanted.packed), (found.scale, wanted.scale)]
    if wanted.zero is not None and found.zero is not None:
        pairs.append((found.zero, wanted.zero))
    return (
        (found.bits, found.group_size, found.in_features, found.zero is None)
        == (wanted.bits, wanted.group_size, wanted.in_features, wanted.zero is None)
    ) and all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


weights = st.builds(
    random_weight,
    st.sampled_from([4, 8]),
    st.sampled_from([32, 64, 96, 128, 1000]),
    st.integers(1, 70),
    st.integers(1, 300),
    st.booleans(),
).filter(fits)


@settings(max_examples=80, deadline=None)
@given(weights)
def test_rows_come_back_to_the_bit(weight: QuantizedWeight) -> None:
    """Also where neither tiles nor blocks nor groups divide the shape, and where a nibble is left over."""
    tiles = to_tiles(weight)
    assert same(to_rows(tiles), weight)
    packed, scale = shapes(weight.bits, weight.group_size, weight.out_features, weight.in_features)
    assert (tiles.packed.shape, tiles.scale.shape) == (packed, scale)
    assert (tiles.packed.dtype, tiles.scale.dtype) == (torch.uint8, torch.float16)
    assert packed[1] * tiles.block >= weight.in_features
    assert scale[1] == 1 or tiles.group_blocks * tiles.block == weight.group_size
    assert scale[1] > 1 or tiles.group_blocks == packed[1]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bits", [4, 8])
def test_large_matrices_are_cut_among_threads(bits: Literal[4, 8], threads: int) -> None:
    weight = random_weight(bits, 64, 1501, 1090)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tiles = to_tiles(weight)
        assert same(to_rows(tiles), weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(tiles.packed[40:42], to_tiles(weight.rows(640, 672)).packed)


@settings(max_examples=40, deadline=None)
@given(weights, st.data())
def test_any_rows_are_those_of_the_matrix(weight: QuantizedWeight, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, weight.out_features - 1))
    end = data.draw(st.integers(start + 1, weight.out_features + 20))
    assert same(to_tiles(weight).rows(start, end), weight.rows(start, min(end, weight.out_features)))


@pytest.mark.parametrize(("group_size", "columns", "block"), [(64, 150, 64), (32, 150, 32), (96, 200, 32)])
def test_int4_lies_as_documented(group_size: int, columns: int, block: int) -> None:
    """Line j, row r, byte t: columns 4j + t and half a block + 4j + t, as value + 8; what is padded is 0."""
    weight = random_weight(4, group_size, 20, columns)
    tiles, values = to_tiles(weight), weight.integers()
    assert tiles.block == block
    for tile, number, j, r, t in [(0, 0, 0, 0, 0), (0, 1, 3, 7, 1), (1, 2, 1, 3, 2), (1, 0, 2, 9, 0)]:
        byte = int(tiles.packed[tile, number, 64 * j + 4 * r + t])
        for nibble, column in ((byte & 15, 4 * j + t), (byte >> 4, block // 2 + 4 * j + t)):
            row, column = TILE * tile + r, block * number + column
            inside = row < 20 and column < columns
            assert nibble - 8 == (int(values[row, column]) if inside else 0), (row, column)


def test_int8_lies_as_documented() -> None:
    weight = random_weight(8, 150, 20, 150)
    tiles, values = to_tiles(weight), weight.integers()
    lines = tiles.packed.view(torch.int8)
    for tile, number, j, r, t in [(0, 0, 0, 0, 0), (0, 1, 15, 7, 1), (1, 2, 5, 3, 1), (1, 2, 5, 3, 2)]:
        row, column = TILE * tile + r, 64 * number + 4 * j + t
        inside = row < 20 and column < 150
        wanted = int(values[row, column]) if inside else 0
        assert int(lines[tile, number, 64 * j + 4 * r + t]) == wanted, (row, column)


def test_scales_of_a_tile_lie_side_by_side() -> None:
    weight = random_weight(4, 32, 35, 100, zero=True)
    tiles = to_tiles(weight)
    assert weight.zero is not None
    assert tiles.zero is not None
    for tiled, rows in ((tiles.scale, weight.scale), (tiles.zero, weight.zero)):
        assert torch.equal(tiled[1, 3], rows[16:32, 3])
        assert torch.equal(tiled[2, 0, :3], rows[32:, 0])
        assert not tiled[2, :, 3:].any()


@pytest.mark.parametrize(
    "quantize",
    [
        lambda weight: quantize_int4(weight, 64),
        lambda weight: quantize_int4_hqq(weight, 32),
        quantize_int8,
    ],
)
def test_what_the_quantisers_make_fits(quantize: object) -> None:
    assert callable(quantize)
    weight = quantize(torch.randn(50, 200))
    assert same(to_rows(to_tiles(weight)), weight)


@pytest.mark.parametrize(
    ("bits", "group_size", "columns", "fit"),
    [
        (4, 48, 200, False),
        (4, 1, 200, False),
        (4, 32, 200, True),
        (4, 200, 200, True),
        (4, 500, 200, True),
        (8, 32, 200, False),
        (8, 64, 200, True),
        (8, 200, 200, True),
    ],
)
def test_groups_that_blocks_would_straddle_stay_rows(
    bits: Literal[4, 8], group_size: int, columns: int, fit: bool
) -> None:
    assert fits_shape(bits, group_size, columns) == fit
    weight = random_weight(bits, group_size, 16, columns)
    assert fits(weight) == fit
    if not fit:
        with pytest.raises(ValueError, match=f"groups of {group_size}"):
            to_tiles(weight)


def with_scale(value: Tensor) -> QuantizedWeight:
    weight = random_weight(4, 64, 16, 64)
    return replace(weight, scale=value.expand(16, 1).contiguous())


def test_scales_that_float16_would_change_stay_rows() -> None:
    exact = with_scale(torch.tensor(0.125))
    assert fits(exact)
    assert torch.equal(to_rows(to_tiles(exact)).scale.float(), exact.scale)
    assert not fits(with_scale(torch.tensor(0.1)))
    assert not fits(with_scale(torch.tensor(1e-9)))
    assert not fits(with_scale(torch.tensor(1e6)))


def test_size_counts_padding() -> None:
    tiles = to_tiles(random_weight(4, 64, 17, 65, zero=True))
    assert tiles.nbytes == 2 * 2 * 512 + 2 * (2 * 2 * TILE * 2)
    assert isinstance(tiles.to(torch.device("cpu")), TiledWeight)
    assert tiles.to(torch.device("cpu")).packed.data_ptr() == tiles.packed.data_ptr()
