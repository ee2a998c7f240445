"""Which operations serve where, and the reasons given."""

from __future__ import annotations

import pytest
import torch

from model.kernels import choice as module
from model.kernels.choice import choose
from model.kernels.library import ISA_VARIABLE, THREADS_VARIABLE, Library, NoLibrary
from model.types import ModelError

CPU = torch.device("cpu")
NO_COMPILER = NoLibrary("the native library is not built (no g++)", remedy="install it")


@pytest.fixture
def _no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_library() -> Library:
        raise NO_COMPILER

    monkeypatch.setattr(module, "open_library", open_library)


def with_operator(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(module, "is_available", lambda: available)


@pytest.mark.parametrize("exact", [False, True])
def test_the_native_library_serves_float32_on_the_cpu(
    library: Library, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    chosen = choose(CPU, torch.float32, exact=exact)
    assert (chosen.operations.exact, chosen.operations.dtype) == (exact, torch.float32)
    assert chosen.reason is None
    assert str(chosen) == f"native {library.isa}, 3 threads"
    monkeypatch.setenv(ISA_VARIABLE, "scalar")
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    assert str(choose(CPU, torch.float32, exact=exact)) == "native scalar, 1 thread"


@pytest.mark.usefixtures("_no_library")
@pytest.mark.parametrize(
    ("available", "exact", "name"),
    [(True, False, "torch int4"), (True, True, "reference"), (False, False, "reference")],
)
def test_without_it_pytorchs_operator_serves_where_nothing_is_to_be_exact(
    monkeypatch: pytest.MonkeyPatch, available: bool, exact: bool, name: str
) -> None:
    with_operator(monkeypatch, available)
    chosen = choose(CPU, torch.float32, exact=exact)
    assert (chosen.operations.name, chosen.operations.exact) == (name, exact)
    assert str(chosen) == f"{name}: the native library is not built (no g++); install it"


def test_other_dtypes_and_devices_have_no_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with_operator(monkeypatch, True)
    half = choose(CPU, torch.bfloat16)
    assert (half.operations.name, half.operations.dtype) == ("torch int4", torch.bfloat16)
    assert half.reason == "the native library computes in float32, not in bfloat16"
    there = choose(torch.device("mps"), torch.float16)
    assert (there.operations.name, there.operations.dtype) == ("reference", torch.float16)
    assert there.reason == "there are no kernels for mps"


def test_cards_have_kernels_for_float16_alone() -> None:
    for dtype, exact in ((torch.float32, True), (torch.bfloat16, False)):
        there = choose(torch.device("cuda"), dtype, exact=exact)
        assert (there.operations.name, there.operations.exact) == ("reference", exact)
        assert there.reason is not None
        assert there.reason.startswith("the kernels for cards compute in float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_driver_pytorch_serves_and_says_why() -> None:
    there = choose(torch.device("cuda"), torch.float16)
    assert (there.operations.name, there.operations.dtype) == ("reference", torch.float16)
    assert there.reason is not None
    assert "driver" in there.reason or "PyTorch" in there.reason


def test_what_an_operator_asks_for_in_vain_is_an_error(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    with pytest.raises(ModelError, match=ISA_VARIABLE):
        choose(CPU, torch.float32)
    monkeypatch.delenv(ISA_VARIABLE)
    monkeypatch.setenv(THREADS_VARIABLE, "many")
    with pytest.raises(ModelError, match=THREADS_VARIABLE):
        choose(CPU, torch.float32)
