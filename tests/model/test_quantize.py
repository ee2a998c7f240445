"""Integers and scales: packing, the published form, and how good the searched scales are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model.quantize import (
    QuantizedWeight,
    dequantize,
    from_thudm,
    import_thudm_int4,
    pack_int4,
    quantize_thudm,
    unpack_int4,
)
from model.types import ModelError

Bits = Literal[4, 8]
DATA = Path(__file__).parent.parent / "data" / "chatglm"
BITS = pytest.mark.parametrize("bits", [4, 8])

shapes = st.tuples(st.integers(0, 5), st.integers(1, 70))
seeds = st.integers(0, 2**32 - 1)


def random_integers(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 8, (rows, columns), dtype=torch.int8, generator=generator)


def golden(bits: Bits) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reference's checkpoint, and what it makes of its first layer."""
    return load_file(DATA / f"int{bits}_checkpoint.safetensors"), load_file(
        DATA / f"int{bits}_expected.safetensors"
    )


# -- packing --------------------------------------------------------------------------------


@given(shapes, seeds)
def test_packing_is_undone(shape: tuple[int, int], seed: int) -> None:
    integers = random_integers(*shape, seed)
    packed = pack_int4(integers)
    assert packed.dtype == torch.uint8
    assert packed.shape == (shape[0], (shape[1] + 1) // 2)
    assert torch.equal(unpack_int4(packed, shape[1]), integers)


def test_even_column_is_the_low_nibble() -> None:
    assert pack_int4(torch.tensor([[-8, 7, 1]], dtype=torch.int8)).tolist() == [[0xF0, 0x89]]


def test_zero_counts_in_the_units_of_the_integers() -> None:
    packed = pack_int4(torch.tensor([[-8, 0, 7]], dtype=torch.int8))
    scale, zero = torch.tensor([[0.5, 2.0]]).half(), torch.tensor([[-1.5, 3.0]]).half()
    weight = QuantizedWeight(4, 2, 3, packed, scale, zero)
    assert dequantize(weight).tolist() == [[-3.25, 0.75, 8.0]]


def test_rows_are_a_part() -> None:
    weight = from_thudm(random_integers(6, 10, 0), torch.rand(6), 8)
    assert torch.equal(dequantize(weight.rows(2, 5)), dequantize(weight)[2:5])


# -- the published form ---------------------------------------------------------------------


@BITS
def test_published_matrices_are_read_to_the_bit(bits: Bits) -> None:
    checkpoint, expected = golden(bits)
    names = {name.rpartition("/")[0] for name in expected if name.endswith("/int_values")}
    assert names
    for name in names:
        full = name.replace("layer0", "transformer.layers.0") + ".weight"
        weight = from_thudm(checkpoint[full], checkpoint[f"{full}_scale"], bits)
        assert torch.equal(weight.integers(), expected[f"{name}/int_values"])
        assert torch.equal(dequantize(weight), expected[f"{name}/dequant_fp32"])
        assert torch.equal(dequantize(weight, torch.float16), expected[f"{name}/dequant_fp16"])
        if bits == 4:
            assert torch.equal(import_thudm_int4(checkpoint[full]), weight.integers())


@BITS
def test_published_matrices_are_written_to_the_bit(bits: Bits) -> None:
    checkpoint, _ = golden(bits)
    source = load_file(DATA / "model.safetensors")
    names = [name.removesuffix("_scale") for name in checkpoint if name.endswith("weight_scale")]
    assert names
    for name in names:
        packed, scale = quantize_thudm(source[name], bits)
        assert torch.equal(packed, checkpoint[name])
        assert torch.equal(scale, checkpoint[f"{name}_scale"])


@given(shapes, seeds)
def test_published_nibbles_are_all_understood(shape: tuple[int, int], seed: int) -> None:
    integers = random_integers(shape[0], 2 * shape[1], seed)
    published = (integers[:, 0::2] << 4) | (integers[:, 1::2] & 15)
    assert torch.equal(import_thudm_int4(published), integers)
    assert torch.equal(from_thudm(published, torch.ones(shape[0]), 4).integers(), integers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_published_scales_keep_their_type(dtype: torch.dtype) -> None:
    scale = torch.tensor([0.1, 0.3], dtype=dtype)
    weight = from_thudm(torch.zeros(2, 3, dtype=torch.int8), scale, 8)
    assert weight.scale.dtype == dtype
    assert torch.equal(weight.scale[:, 0], scale)


@BITS
def test_published_form_of_a_row_of_zeros_is_finite(bits: Bits) -> None:
    weight = dequantize(from_thudm(*quantize_thudm(torch.zeros(1, 4), bits), bits))
    assert weight.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("matrix", "scale"),
    [
        (torch.zeros(2, 4), torch.ones(2)),
        (torch.zeros(4, dtype=torch.int8), torch.ones(4)),
        (torch.zeros(2, 4, dtype=torch.int8), torch.ones(3)),
        (torch.zeros(2, 4, dtype=torch.int8), torch.ones(2, dtype=torch.int8)),
    ],
)
def test_malformed_published_matrix_is_named(matrix: Tensor, scale: Tensor) -> None:
    with pytest.raises(ModelError) as raised:
        from_thudm(matrix, scale, 8, name="transformer.layers.0.mlp.dense_h_to_4h.weight")
    assert raised.value.tensor == "transformer.layers.0.mlp.dense_h_to_4h.weight"
