"""Loading refuses numbers that no answer would come of, and names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.convert import convert
from model.loading import load_weights
from model.types import ModelError

DATA = Path(__file__).parent.parent / "data" / "chatglm"
NORM = "transformer.layers.1.input_layernorm.weight"
DENSE = "transformer.layers.2.attention.dense"


def spoil(file: Path, tensor: str, value: str) -> None:
    """Make the last value of a stored tensor NaN or infinite."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    state[tensor].view(-1)[-1] = float(value)
    save_file(state, file, metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(DATA / "config.json", tmp_path)
    return tmp_path


def refused(file: Path, tensor: str) -> None:
    with pytest.raises(ModelError, match="not finite") as caught:
        load_weights(file)
    assert (caught.value.file, caught.value.tensor) == (file, tensor)
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("form", "tensor"),
    [
        ("model", NORM),
        ("model", "transformer.final_layernorm.bias"),
        ("model", f"{DENSE}.bias"),
        ("int4_checkpoint", f"{DENSE}.weight_scale"),
        ("int8_checkpoint", f"{DENSE}.weight_scale"),
    ],
)
def test_published_vectors_and_scales_must_be_finite(
    form: str, tensor: str, value: str, folder: Path
) -> None:
    file = folder / "model.safetensors"
    shutil.copyfile(DATA / f"{form}.safetensors", file)
    load_weights(file)
    spoil(file, tensor, value)
    refused(file, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        NORM,
        f"{DENSE}.weight_scale",
        f"{DENSE}.weight_zero",
        "transformer.word_embeddings.weight_scale",
    ],
)
def test_packed_vectors_scales_and_zero_points_must_be_finite(tensor: str, tmp_path: Path) -> None:
    file = convert(DATA / "model.safetensors", tmp_path, hqq=True)
    load_weights(file)
    spoil(file, tensor, "nan")
    refused(file, tensor)


def test_what_is_not_finite_is_not_converted_either(folder: Path) -> None:
    file = folder / "model.safetensors"
    shutil.copyfile(DATA / "model.safetensors", file)
    spoil(file, NORM, "inf")
    with pytest.raises(ModelError, match="not finite"):
        convert(file, folder / "packed")
