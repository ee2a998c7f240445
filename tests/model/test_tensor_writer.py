from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model.tensor_file import TensorFile, TensorInfo
from model.tensor_writer import nbytes, write_bin, write_safetensors

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def states(draw: st.DrawFn) -> dict[str, Tensor]:
    """Some tensors of mixed types and shapes, scalars and empty ones among them."""
    names = draw(st.lists(st.text("ab.é层", min_size=1, max_size=12), min_size=1, max_size=6, unique=True))
    state = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        dtype = draw(st.sampled_from((*FLOATS, torch.int8)))
        state[name] = (torch.randn(shape) * 20).to(dtype)
    return state


def infos_of(state: dict[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


def assert_same(read: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@given(states())
def test_bin_is_what_torch_reads(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> None:
    file = tmp_path_factory.mktemp("bin") / "x.bin"
    write_bin(file, infos_of(state), state.__getitem__)
    for mapped in (False, True):
        assert_same(torch.load(file, weights_only=True, mmap=mapped), state)
    ours = TensorFile(file)
    assert ours.tensors == infos_of(state)
    assert_same({name: ours.read(name) for name in ours.tensors}, state)


@given(states())
def test_safetensors_are_what_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]
) -> None:
    file = tmp_path_factory.mktemp("st") / "x.safetensors"
    write_safetensors(file, infos_of(state), state.__getitem__)
    assert_same(load_file(file), state)
    assert TensorFile(file).tensors == infos_of(state)


def test_mapped_values_of_a_bin_are_aligned(tmp_path: Path) -> None:
    state = {f"layer.{n}" + "x" * n: torch.ones(n + 1, dtype=torch.int8) for n in range(70)}
    write_bin(tmp_path / "x.bin", infos_of(state), state.__getitem__)
    read = torch.load(tmp_path / "x.bin", weights_only=True, mmap=True)
    assert {tensor.data_ptr() % 64 for tensor in read.values()} == {0}


@pytest.mark.parametrize("write", [write_bin, write_safetensors])
def test_one_tensor_at_a_time_in_the_order_of_the_file(write: Callable[..., None], tmp_path: Path) -> None:
    state = {name: torch.ones(3) for name in "cab"}
    asked: list[str] = []

    def read(name: str) -> Tensor:
        asked.append(name)
        return state[name]

    write(tmp_path / "x", infos_of(state), read)
    assert asked == list(state)


def test_a_tensor_other_than_announced_is_refused(tmp_path: Path) -> None:
    infos = {"x": TensorInfo((2, 3), torch.float16)}
    assert nbytes(infos["x"]) == 12
    for tensor in (torch.ones(3, 2, dtype=torch.float16), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="announced"):
            write_bin(tmp_path / "x.bin", infos, {"x": tensor}.__getitem__)
