"""One function per operation of the network; today the PyTorch reference serves every device."""

from __future__ import annotations

from model.kernels.reference import (
    attention,
    embed,
    gelu,
    layer_norm,
    linear,
    residual,
    rotary_frequencies,
    rotary_tables,
    rotate,
)

__all__ = [
    "attention",
    "embed",
    "gelu",
    "layer_norm",
    "linear",
    "residual",
    "rotary_frequencies",
    "rotary_tables",
    "rotate",
]
