"""The operations of the network behind one protocol; today the PyTorch reference serves every device."""

from __future__ import annotations

from model.kernels.operations import Operations
from model.kernels.reference import Reference

__all__ = ["Operations", "Reference"]
