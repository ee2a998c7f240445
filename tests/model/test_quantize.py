"""Integers and scales: packing, the published form, and how good the searched scales are."""

from __future__ import annotations

from collections.abc import Callable
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
    quantize_int4,
    quantize_int4_hqq,
    quantize_int8,
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


# -- quantising -----------------------------------------------------------------------------

LIMIT = 7 * 65504.0
matrices = st.builds(
    lambda rows, columns, seed, log_size, tail: (
        heavy_tailed(rows, columns, seed, tail) * 10.0**log_size
    ).clamp(-LIMIT, LIMIT),
    st.integers(1, 4),
    st.integers(1, 200),
    seeds,
    st.integers(-9, 4),
    st.sampled_from([0.0, 1.0, 2.0]),
)
group_sizes = st.sampled_from([1, 3, 32, 64, 128, 500])


def heavy_tailed(rows: int, columns: int, seed: int, tail: float) -> Tensor:
    """Normal numbers times exp(tail * normal)."""
    generator = torch.Generator().manual_seed(seed)
    normal, size = torch.randn(2, rows, columns, generator=generator)
    values: Tensor = normal * torch.exp(tail * size)
    return values


def largest(values: Tensor, group_size: int) -> Tensor:
    """The largest magnitude of each element's group, [rows, columns]."""
    parts = torch.split(values.abs(), group_size, dim=1)
    return torch.cat([part.amax(1, keepdim=True).expand_as(part) for part in parts], dim=1)


def group_errors(weight: Tensor, quantized: QuantizedWeight) -> Tensor:
    """Squared errors in float64, [rows, groups]."""
    errors = (weight.double() - dequantize(quantized).double()) ** 2
    return torch.stack([part.sum(1) for part in torch.split(errors, quantized.group_size, dim=1)], dim=1)


def error_bound(weight: Tensor, group_size: int, levels: int) -> Tensor:
    """Half a step, and what rounding the scale to float16 adds, which has steps of 2^-24 at least."""
    return largest(weight, group_size) * (0.5 / levels + 2.0**-10) + levels * 2.0**-24


@given(matrices, group_sizes)
def test_plain_int4_is_off_by_half_a_step(weight: Tensor, group_size: int) -> None:
    quantized = quantize_int4(weight, group_size, search=False)
    error = (dequantize(quantized) - weight).abs()
    assert (error <= error_bound(weight, group_size, 7)).all()
    assert quantized.scale.dtype == torch.float16
    assert quantized.scale.shape == (weight.shape[0], -(-weight.shape[1] // group_size))


@given(matrices)
def test_int8_is_off_by_half_a_step_of_its_row(weight: Tensor) -> None:
    quantized = quantize_int8(weight)
    error = (dequantize(quantized) - weight).abs()
    assert (error <= error_bound(weight, weight.shape[1], 127)).all()
    assert quantized.scale.shape == (weight.shape[0], 1)


@given(matrices, group_sizes)
def test_search_is_never_worse(weight: Tensor, group_size: int) -> None:
    searched = group_errors(weight, quantize_int4(weight, group_size))
    plain = group_errors(weight, quantize_int4(weight, group_size, search=False))
    assert (searched <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize(("group_size", "gain"), [(32, 1.0), (64, 1.2), (128, 1.4)])
def test_search_gains(group_size: int, gain: float) -> None:
    """In decibels; the optimum over all scales gains 1.6 to 1.8 on normal weights."""
    weight = heavy_tailed(64, 1024, 0, 0.0)
    searched = group_errors(weight, quantize_int4(weight, group_size)).sum()
    plain = group_errors(weight, quantize_int4(weight, group_size, search=False)).sum()
    assert 10 * torch.log10(plain / searched) > gain


def test_the_default_beats_one_scale_for_a_row_by_eight_decibels() -> None:
    weight = heavy_tailed(128, 4096, 1, 0.5).half()  # about the kurtosis of Student-t with 5 degrees
    ours = group_errors(weight, quantize_int4(weight)).sum()
    original = group_errors(weight, from_thudm(*quantize_thudm(weight, 4), 4)).sum()
    assert 10 * torch.log10(original / ours) > 8


def test_search_uses_the_lowest_integer_on_either_side() -> None:
    """-8 has no counterpart, so the scale takes the sign that puts the longer tail there."""
    weight = torch.tensor([[8.0, *range(-7, 8)]])
    for signed in (weight, -weight):
        quantized = quantize_int4(signed, 16)
        assert torch.equal(dequantize(quantized), signed)
        assert quantized.integers()[0, 0] == -8


@pytest.mark.parametrize("rows", [1, 70])
def test_groups_do_not_touch_each_other(rows: int) -> None:
    """A short last group is fitted as if it stood alone, and rows of later blocks like those of the first."""
    weight = heavy_tailed(rows, 4096 + 37, 1, 1.0)
    whole = dequantize(quantize_int4(weight, 64))
    assert torch.equal(whole[:, 4096:], dequantize(quantize_int4(weight[:, 4096:], 64)))
    assert torch.equal(whole[-1:, :4096], dequantize(quantize_int4(weight[-1:, :4096], 64)))


def test_halves_go_to_the_even_integer() -> None:
    weight = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantize_int4(weight, search=False).integers().tolist() == [[7, 0, 2, 2, 0, -2]]
    weight = torch.tensor([[127.0, 0.5, 1.5, -2.5]])
    assert quantize_int8(weight).integers().tolist() == [[127, 0, 2, -2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_and_layout(dtype: torch.dtype) -> None:
    weight = heavy_tailed(96, 5, 2, 0.0).to(dtype)
    assert torch.equal(
        dequantize(quantize_int4(weight.T)), dequantize(quantize_int4(weight.float().T.contiguous()))
    )


QUANTIZERS: list[Callable[[Tensor], QuantizedWeight]] = [
    quantize_int4,
    quantize_int4_hqq,
    quantize_int8,
    lambda weight: quantize_int4(weight, search=False),
]
EVERY = pytest.mark.parametrize("quantize", QUANTIZERS, ids=["int4", "hqq", "int8", "plain"])


@EVERY
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-8, -1e-8, 6e-8, 1e-6, 1.0, -3.0, 65504.0, LIMIT])
def test_extreme_values(quantize: Callable[[Tensor], QuantizedWeight], value: float) -> None:
    """Groups that are tiny, huge or constant; float16 holds scales in steps of 2^-24."""
    weight = torch.full((2, 65), value)
    weight[1] = 0
    quantized = quantize(weight)
    assert quantized.scale.isfinite().all()
    restored = dequantize(quantized)
    assert torch.allclose(restored[0], weight[0], rtol=2e-3, atol=7 * 2.0**-25)
    assert (restored[1] == 0).all()
    assert (quantized.integers()[1] == 0).all()


@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e6])
def test_unusable_weights_are_named(quantize: Callable[[Tensor], QuantizedWeight], value: float) -> None:
    weight = torch.zeros(300, 1024)
    weight[299, 1023] = value
    with pytest.raises(ModelError):
        quantize(weight)


def test_name_of_unusable_weights() -> None:
    for quantize in (quantize_int4, quantize_int4_hqq, quantize_int8):
        with pytest.raises(ModelError) as raised:
            quantize(torch.full((1, 1), float("nan")), name="lm_head.weight")
        assert raised.value.tensor == "lm_head.weight"


@given(st.floats(-3, 3), seeds)
def test_zero_points_follow_shifted_weights(shift: float, seed: int) -> None:
    weight = heavy_tailed(8, 256, seed, 0.0) + shift
    error = group_errors(weight, quantize_int4_hqq(weight)).sum()
    assert error < group_errors(weight, quantize_int4(weight, search=False)).sum()


def test_zero_points_beat_search_on_shifted_weights() -> None:
    weight = heavy_tailed(64, 1024, 3, 0.0) + 2
    assert (
        group_errors(weight, quantize_int4_hqq(weight)).sum()
        < group_errors(weight, quantize_int4(weight)).sum() / 2
    )


@pytest.mark.parametrize("quantize", [quantize_int4, quantize_int4_hqq, quantize_int8])
def test_results_lie_where_the_matrix_lies(
    quantize: Callable[[Tensor], QuantizedWeight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without values, which refuses to be mixed with the CPU as a graphics card does."""
    monkeypatch.setattr("model.quantize._check_range", lambda *_: None)  # the one thing that looks at values
    weight = quantize(torch.empty(40, 200, dtype=torch.float16, device="meta"))
    for tensor in (weight.packed, weight.scale, weight.zero, dequantize(weight)):
        assert tensor is None or tensor.device.type == "meta"


def test_the_size_of_blocks_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(300, 512, generator=torch.Generator().manual_seed(0)) / 50
    for quantize in (quantize_int4, quantize_int4_hqq, quantize_int8):
        monkeypatch.setattr("model.quantize.BLOCK", 1 << 12)
        small = quantize(weight)
        monkeypatch.setattr("model.quantize.BLOCK", 1 << 24)
        large = quantize(weight)
        assert torch.equal(small.packed, large.packed)
        assert torch.equal(small.scale, large.scale)
        assert small.zero is large.zero is None or torch.equal(small.zero, large.zero)


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
    assert "download" in (raised.value.remedy or "")
    assert raised.value.tensor == "transformer.layers.0.mlp.dense_h_to_4h.weight"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_published_nibbles_of_another_type_are_refused(dtype: torch.dtype) -> None:
    """The same shifts would give other integers."""
    with pytest.raises(ModelError, match=r"instead of an int8 matrix"):
        import_thudm_int4(torch.full((2, 3), 0x9F, dtype=dtype))
