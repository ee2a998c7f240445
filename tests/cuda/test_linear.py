"""Linear layers, logits, the embedding and whole matrices: kernels against products in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from model.kernels.mma_linear import MmaLinear
from model.mma_tiles import MmaWeight, to_mma
from model.quantize import QuantizedWeight, dequantize
from tests.cuda.emulator import Emulator

CPU = torch.device("cpu")


def quantized(bits: int, group: int, out: int, columns: int, *, zeros: bool = False) -> QuantizedWeight:
    """A matrix of every code, with scales of either sign."""
    rng = torch.Generator().manual_seed(out + columns + group)
    groups = -(-columns // group)
    packed = torch.randint(0, 256, (out, columns * bits // 8), dtype=torch.uint8, generator=rng)
    scale = (torch.rand(out, groups, generator=rng) - 0.3).half() / 10
    zero = torch.randn(out, groups, generator=rng).half() if zeros else None
    packed = packed if bits == 4 else packed.view(torch.int8)
    return QuantizedWeight(4 if bits == 4 else 8, group, columns, packed, scale, zero)


def rows_of(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).half()


def product(x: Tensor, weight: QuantizedWeight) -> Tensor:
    return x.double() @ dequantize(weight, torch.float64).t()


def close(result: Tensor, expected: Tensor, *, bits: float) -> bool:
    """Whether no number is further off than 2^-bits of the largest; NaN never is close."""
    return bool((result.double() - expected).abs().max() <= expected.abs().max() * 2.0**-bits)


CASES = [
    (4, 64, 64, 128, False),  # one step
    (4, 64, 192, 1024, False),
    (4, 64, 80, 640, False),  # a height that is no multiple of 64, shares of unequal length
    (4, 128, 64, 512, False),
    (4, 32, 64, 384, False),
    (4, 256, 64, 256, False),  # one scale a row
    (4, 64, 64, 256, True),
    (4, 32, 96, 256, True),
    (8, 384, 64, 384, False),
    (8, 1024, 144, 1024, False),
]


@pytest.mark.parametrize(("bits", "group", "out", "columns", "zeros"), CASES)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 29, 50, 64])
def test_linear_layers(
    fused: Fused, bits: int, group: int, out: int, columns: int, zeros: bool, rows: int
) -> None:
    weight, x = quantized(bits, group, out, columns, zeros=zeros), rows_of(rows, columns)
    bias = rows_of(1, out)[0]
    y = fused.linear(x, to_mma(weight), bias)
    assert close(y, product(x, weight) + bias.double(), bits=10)


@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_gelu_follows_at_once_or_after_the_sums(emulator: Emulator, multiprocessors: int) -> None:
    card = Emulator(emulator.folder, multiprocessors=multiprocessors)
    weight, x, bias = quantized(4, 64, 192, 1024), rows_of(5, 1024), rows_of(1, 192)[0]
    y = Fused(card, CPU).linear(x, to_mma(weight), bias, gelu=True)
    sums = (product(x, weight) + bias.double()).float()
    assert close(y, functional.gelu(sums, approximate="tanh"), bits=10)
    assert any(name.startswith("linear_gelu") for name in card.counts) == (multiprocessors == 1)


def test_a_row_has_the_same_bits_in_any_batch(fused: Fused) -> None:
    weight, x = to_mma(quantized(4, 64, 64, 1024)), rows_of(64, 1024)
    bias = torch.zeros(64).half()
    whole = fused.linear(x, weight, bias)
    for rows in (1, 8, 9, 17, 33):
        assert torch.equal(fused.linear(x[:rows], weight, bias), whole[:rows])


def test_sums_are_float32(launcher: Launcher) -> None:
    weight, x = quantized(4, 64, 64, 2048), rows_of(4, 2048)
    sums = MmaLinear(launcher, CPU).sums(x, to_mma(weight), torch.zeros(64).half()).shares
    assert len(sums) > 1
    assert close(sums.double().sum(0), product(x, weight), bits=20)


@pytest.mark.parametrize("rows", [1, 12, 64, 70])
def test_logits(fused: Fused, rows: int) -> None:
    weight, x = quantized(8, 256, 208, 256), rows_of(rows, 256)
    logits = fused.linear(x, to_mma(weight))
    assert logits.dtype == torch.float32
    assert close(logits, product(x, weight), bits=18)


def test_the_embedding(fused: Fused) -> None:
    weight, ids = quantized(8, 256, 96, 256), torch.tensor([0, 95, 17, 17, 40])
    assert torch.equal(fused.embed(ids, to_mma(weight)), dequantize(weight, torch.float16)[ids])


@pytest.mark.parametrize(("bits", "group", "out", "columns", "zeros"), CASES)
def test_whole_matrices(
    launcher: Launcher, bits: int, group: int, out: int, columns: int, zeros: bool
) -> None:
    weight = quantized(bits, group, out, columns, zeros=zeros)
    assert torch.equal(MmaLinear(launcher, CPU).dequantize(to_mma(weight)), dequantize(weight, torch.float16))


def test_many_rows_go_through_the_whole_matrix(fused: Fused) -> None:
    weight, x, bias = quantized(4, 64, 64, 128), rows_of(200, 128), rows_of(1, 64)[0]
    y = fused.linear(x, to_mma(weight), bias)
    assert close(y, product(x, weight) + bias.double(), bits=9)


def test_what_no_tile_can_hold_stays_in_rows(fused: Fused) -> None:
    for weight in (quantized(4, 64, 60, 128), quantized(4, 64, 64, 192), quantized(8, 64, 64, 128)):
        assert isinstance(fused.prepare(weight), QuantizedWeight)
    odd = quantized(4, 192, 64, 384)  # groups of three tiles
    assert not isinstance(fused.prepare(odd), MmaWeight)


@pytest.mark.long
@pytest.mark.parametrize(("out", "columns"), [(12_288, 4_096), (4_096, 16_384)])
@pytest.mark.parametrize("rows", [1, 50])
def test_linear_layers_of_the_true_size(launcher: Launcher, out: int, columns: int, rows: int) -> None:
    weight, x = quantized(4, 64, out, columns), rows_of(rows, columns)
    bias = rows_of(1, out)[0]
    y = MmaLinear(launcher, CPU).linear(x, to_mma(weight), bias, gelu=False)
    assert close(y, (x.float() @ dequantize(weight).t() + bias.float()).double(), bits=10)


@pytest.mark.long
def test_logits_of_the_true_vocabulary(launcher: Launcher) -> None:
    """Also of the early one, which has image tokens; places in the matrix pass 2^29."""
    for vocabulary in (130_528, 150_528):
        weight, x = quantized(8, 4096, vocabulary, 4096), rows_of(2, 4096)
        tiles = to_mma(weight)
        logits = MmaLinear(launcher, CPU).logits(x, tiles)
        assert close(logits, (x.float() @ dequantize(weight).t()).double(), bits=16)
        ids = torch.tensor([0, vocabulary - 1, 77_777])
        assert torch.equal(MmaLinear(launcher, CPU).embed(ids, tiles), dequantize(weight, torch.float16)[ids])
