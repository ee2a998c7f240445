"""The scales of groups of weights: plain, searched for the least squared error, and with zero-points (HQQ).

Groups are float32 [..., width]; scales and zero-points are float32 [..., 1] and exact in float16, as stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF_MAX = 65504.0
"""The largest float16."""

HALF_TINY = 2.0**-24
"""The smallest float16 above zero."""

EXTREMES = tuple(6.8 * math.exp(step / 11 * math.log(16 / 6.8)) for step in range(12))
"""What a group's largest weight is divided into, 6.8 to 16 steps: below 8 nothing is clipped, 16 clips it in
half. A finer grid, or the opposite sign as well, gains 0.03 dB."""


def steps(groups: Tensor, scale: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
    """The integers low..high, in float32, that come nearest to the groups; halves go to the even one."""
    values = groups * _inverse(scale)
    if zero is not None:
        values += zero
    return values.round_().clamp_(low, high)


def plain_scale(groups: Tensor, high: int) -> Tensor:
    """The scale that maps a group's largest magnitude to `high`."""
    return _stored(groups.abs().amax(dim=-1, keepdim=True) / high)


def search_scale(groups: Tensor) -> Tensor:
    """The INT4 scale, of either sign, of the least squared error; never worse than the plain one.

    Each candidate of `EXTREMES` maps the weight of largest magnitude to -extreme, so that the one integer
    without a counterpart is used. Its integers q are then kept and the scale best for them is taken,
    <w, q> / <q, q> (least squares); the best candidate is rounded to float16 and refined once more.
    """
    scale = _least_squares_grid(groups)
    best = plain_scale(groups, 7)
    integers = steps(groups, best, None, -8, 7)
    least = _squared_error(groups, best, integers)
    for _ in range(2):
        scale = _stored(scale)
        integers = steps(groups, scale, None, -8, 7)
        error = _squared_error(groups, scale, integers)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
        dots = (groups * integers).sum(dim=-1, keepdim=True)
        scale = (dots / (integers * integers).sum(dim=-1, keepdim=True)).nan_to_num_(0.0)
    return best


def _least_squares_grid(groups: Tensor) -> Tensor:
    """The best of the grid before any rounding to float16."""
    high, low = groups.amax(dim=-1, keepdim=True), groups.amin(dim=-1, keepdim=True)
    inverse = _inverse(torch.where(high > -low, -high, -low))
    dots = groups.new_empty((len(EXTREMES), *groups.shape[:-1]))
    norms = torch.empty_like(dots)
    integers = torch.empty_like(groups, memory_format=torch.contiguous_format)
    for number, extreme in enumerate(EXTREMES):
        torch.mul(groups, inverse * extreme, out=integers).round_().clamp_(-8, 7)
        torch.linalg.vector_norm(integers, dim=-1, out=norms[number])
        torch.sum(integers.mul_(groups), dim=-1, out=dots[number])
    cosines = dots.div_(norms)  # the squared error is <w, w> - cosine^2
    best = cosines.abs().argmax(dim=0, keepdim=True)
    return (cosines.gather(0, best) / norms.gather(0, best)).nan_to_num_(0.0)[0].unsqueeze(-1)


def half_quadratic(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The INT4 scale and zero-point of HQQ (Badri and Shaji, 2023), by half-quadratic splitting.

    The l_p norm (p = 0.7) of the residuals is made small, so that a few outliers are let go. Residuals are
    measured in steps here, which makes the result independent of the magnitude of the weights. A step is at
    least 1/1024 of the largest magnitude, as float16 holds no finer zero-point.
    """
    high, low = groups.amax(dim=-1, keepdim=True), groups.amin(dim=-1, keepdim=True)
    scale = _stored(torch.maximum((high - low) / 15, torch.maximum(high, -low) / 1024))
    values = groups * _inverse(scale)
    zero = -8 - low * _inverse(scale)
    beta = 10.0
    for _ in range(20):
        moved = values + zero
        residual = moved - moved.round().clamp_(-8, 7)
        size = residual.abs()
        kept = (size - size.clamp(min=1e-6).pow_(0.7 - 1).div_(beta)).clamp_(min=0).copysign_(residual)
        zero -= (residual - kept).mean(dim=-1, keepdim=True)
        beta *= 1.01
    return scale, torch.where(scale == 0, 0.0, _stored(zero))


def _squared_error(groups: Tensor, scale: Tensor, integers: Tensor) -> Tensor:
    """The squared error of the groups, [..., 1]."""
    errors = groups - integers * scale
    return (errors * errors).sum(dim=-1, keepdim=True)


def _stored(values: Tensor) -> Tensor:
    """Rounded to a finite float16, in float32; what is not zero does not become zero."""
    rounded = values.clamp(-HALF_MAX, HALF_MAX).to(torch.float16).to(torch.float32)
    return torch.where(rounded == 0, values.sign() * HALF_TINY, rounded)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that is no number."""
    return scale.reciprocal().nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
