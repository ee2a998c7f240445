"""Every published form of one small model gives the published logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from model.config import EARLY_IDS, IMAGE_TOKENS
from model.convert import convert

VECTORS = Path(__file__).parents[1] / "data" / "chatglm"
CASES = load_file(VECTORS / "cases.safetensors")
State = dict[str, Tensor]
EMBEDDINGS = "transformer.word_embeddings.weight"


def state(name: str = "model") -> State:
    return load_file(VECTORS / f"{name}.safetensors")


def write_config(folder: Path, **changes: object) -> None:
    config = json.loads((VECTORS / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")


def write_index(folder: Path, name: str, files: Mapping[str, State]) -> None:
    places = {tensor: file for file, tensors in files.items() for tensor in tensors}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}), "utf-8")


def shards(tensors: State, pattern: str, count: int = 3) -> dict[str, State]:
    names = list(tensors)
    return {
        pattern.format(number + 1, count): {name: tensors[name] for name in names[number::count]}
        for number in range(count)
    }


def one_safetensors(folder: Path) -> None:
    save_file(state(), folder / "model.safetensors")


def safetensors_shards(folder: Path) -> None:
    files = shards(state(), "model-{:05}-of-{:05}.safetensors")
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    write_index(folder, "model.safetensors.index.json", files)


def bin_shards(folder: Path) -> None:
    files = shards(state(), "pytorch_model-{:05}-of-{:05}.bin")
    for file, tensors in files.items():
        torch.save(tensors, folder / file)
    write_index(folder, "pytorch_model.bin.index.json", files)


def old_bin(folder: Path) -> None:
    torch.save(state(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def without_lm_head(folder: Path) -> None:
    torch.save(
        {name: t for name, t in state().items() if name != "lm_head.weight"}, folder / "pytorch_model.bin"
    )


def early_vocabulary(folder: Path) -> None:
    tensors = state()
    for name in (EMBEDDINGS, "lm_head.weight"):
        images = torch.randn(IMAGE_TOKENS, tensors[name].shape[1])
        tensors[name] = torch.cat((images, tensors[name]))
    config = json.loads((VECTORS / "config.json").read_text("utf-8"))
    write_config(
        folder,
        vocab_size=config["vocab_size"] + IMAGE_TOKENS,
        **{name: config[name] + IMAGE_TOKENS for name in EARLY_IDS},
    )
    torch.save(tensors, folder / "pytorch_model.bin")


FLOAT_FORMS = [
    one_safetensors,
    safetensors_shards,
    bin_shards,
    old_bin,
    without_lm_head,
    early_vocabulary,
]


def logits_match(path: Path, expected: Tensor) -> None:
    loaded = model.load(path, device="cpu", quantization="none", dtype="float32")
    logits = loaded.logits(CASES["gmask/input_ids"][0].tolist())
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("write", FLOAT_FORMS)
def test_float_forms(write: Callable[[Path], None], tmp_path: Path) -> None:
    write_config(tmp_path)
    write(tmp_path)
    logits_match(tmp_path, CASES["gmask/logits"][0])


@pytest.mark.parametrize("write", FLOAT_FORMS)
def test_float_forms_packed_as_they_are(write: Callable[[Path], None], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_config(source)
    write(source)
    packed = convert(source, tmp_path / "packed", quantization="none", dtype=torch.float32)
    logits_match(packed, CASES["gmask/logits"][0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scales", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["bin", "safetensors", "packed"])
def test_integer_forms(bits: int, scales: torch.dtype, kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_config(source, quantization_bit=bits, quantization_embeddings=False)
    tensors = state(f"int{bits}_checkpoint")
    tensors |= {name: t.to(scales) for name, t in tensors.items() if name.endswith("weight_scale")}
    if kind == "bin":
        torch.save(tensors, source / "pytorch_model.bin")
    else:
        save_file(tensors, source / "model.safetensors")
    path = convert(source, tmp_path / "packed") if kind == "packed" else source
    logits_match(path, state(f"int{bits}_expected")["gmask/logits"][0])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_single_file_beside_other_vectors(bits: int) -> None:
    expected = state(f"int{bits}_expected")
    path = VECTORS / f"int{bits}_checkpoint.safetensors"
    logits_match(path, expected["gmask/logits"][0])
    loaded = model.load(path, device="cpu", quantization="none", dtype="float32")
    ids = expected["gmask/input_ids"][0].tolist()
    tokens = expected["gmask/greedy_tokens"][0].tolist()
    assert list(loaded.generate(ids, max_new_tokens=len(tokens))) == tokens
    stepped = loaded.logits(ids + tokens)[len(ids) :]
    torch.testing.assert_close(stepped, expected["gmask/step_logits"][0], atol=1e-3, rtol=1e-4)
