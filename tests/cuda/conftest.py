"""What tests of kernels share: the host that plays a graphics card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.kernels.fused import Fused
from tests.cuda.emulator import COMPILER, Emulator


@pytest.fixture(scope="session")
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """Compiles kernels as tests ask for them; libraries are kept for the next run."""
    if COMPILER is None:
        pytest.skip("no g++: kernels cannot run on the host")
    return Emulator(Path(request.config.cache.mkdir("simt")))


@pytest.fixture(params=[0, 1, 7], ids=["forward", "backward", "shuffled"])
def fused(emulator: Emulator, request: pytest.FixtureRequest) -> Iterator[Fused]:
    """Operations by the kernels, whose threads run in one order or another."""
    emulator.order = request.param
    yield Fused(emulator, torch.device("cpu"))
    emulator.order = 0
