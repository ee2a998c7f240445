"""LayerNorm with and without a residual, and the sums of linear layers: kernels against float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from model.kernels.fused import Fused
from model.kernels.mma_linear import Sums
from model.weights import Norm

EPSILON = 1e-5


@pytest.mark.parametrize("width", [128, 512, 2052, 4096])
@pytest.mark.parametrize("rows", [1, 3])
def test_layer_norm_with_a_residual(fused: Fused, width: int, rows: int) -> None:
    torch.manual_seed(width)
    x, y = torch.randn(rows, width).half() * 3 + 1, torch.randn(rows, width).half()
    norm = Norm(torch.randn(width).half(), torch.randn(width).half())
    shares, bias = torch.randn(3, rows, width), torch.randn(width).half()

    def expected(h: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(h, (width,), norm.weight.double(), norm.bias.double(), EPSILON).half()

    alpha = 7.5
    whole = alpha * x.double() + shares.double().sum(0) + bias.double()
    for result, h in (
        (fused.norm(x, norm, EPSILON), x.double()),
        (fused.residual_norm(x, y, alpha, norm, EPSILON), alpha * x.double() + y.double()),
        (fused._norm(x, Sums(shares, bias), alpha, norm, EPSILON), whole),
    ):
        torch.testing.assert_close(result, expected(h), atol=2e-3, rtol=1e-3)


def test_a_row_of_equal_numbers_becomes_the_shift(fused: Fused) -> None:
    norm = Norm(torch.ones(128).half(), torch.arange(128).half())
    assert torch.equal(fused.norm(torch.full((2, 128), 3.0).half(), norm, EPSILON), norm.bias.expand(2, 128))
