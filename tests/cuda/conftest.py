"""What tests of kernels share: the host that plays a graphics card, and the card where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from tests.cuda.card import OnCard
from tests.cuda.emulator import COMPILER, SANITIZERS, SOURCES, Emulator
from tests.cuda.instances import usual

CARD = ["card"] if torch.cuda.is_available() or os.environ.get("GLMBOT_LIST_CARD_TESTS") else []
MANY = 200
"""Tests from which it pays to compile all their kernels at once, on all cores."""
ORDERS = {"forward": 0, "backward": 1, "shuffled": 7}


@pytest.fixture(scope="session")
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """Compiles kernels as tests ask for them; libraries are kept for the next run.

    GLMBOT_SIMT_SOURCES names another folder of sources (test_mutations.py), GLMBOT_SIMT_SANITIZE compiles
    with sanitizers, which must have been loaded before this process began (test_sanitizers.py).
    """
    if COMPILER is None:
        pytest.skip("no g++: kernels cannot run on the host")
    sources = Path(os.environ.get("GLMBOT_SIMT_SOURCES", SOURCES))
    flags = SANITIZERS if os.environ.get("GLMBOT_SIMT_SANITIZE") else ()
    emulator = Emulator(Path(request.config.cache.mkdir("simt")), sources=sources, flags=flags)
    if request.session.testscollected > MANY:
        emulator.prepare(usual())
    return emulator


@pytest.fixture(params=["host", *CARD])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Where kernels run."""
    if request.param == "card":
        return OnCard()
    emulator: Emulator = request.getfixturevalue("emulator")
    return emulator


@pytest.fixture(params=[*ORDERS, *CARD])
def fused(request: pytest.FixtureRequest) -> Iterator[Fused]:
    """Operations by the kernels, whose threads run in one order or another, or on a card."""
    if request.param == "card":
        yield Fused(OnCard(), torch.device("cpu"))
        return
    emulator: Emulator = request.getfixturevalue("emulator")
    emulator.order = ORDERS[request.param]
    yield Fused(emulator, torch.device("cpu"))
    emulator.order = 0
