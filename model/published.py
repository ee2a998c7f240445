"""Writes the weights of a ChatGLM in any of the forms in which they were published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.checkpoint import EMBEDDINGS, LM_HEAD, is_linear, tensor_shapes
from model.config import CONFIG_NAME, EARLY_IDS, IMAGE_TOKENS, ChatGLMConfig
from model.quantize import dtype_name, quantize_thudm
from model.sizes import Progress
from model.tensor_file import TensorInfo
from model.tensor_writer import nbytes, write_bin, write_safetensors

PublishedForm = Literal["safetensors", "fp16-shards", "slim", "early", "int8", "int4"]
"""safetensors: model.safetensors, without the output matrix, which is tied. fp16-shards: eight `.bin`, the
last is the output matrix. slim: the same in a single pytorch_model.bin. early: shards with 20000 image tokens
before the vocabulary. int8, int4: pytorch_model.bin of integers and scales, without the output matrix."""

SHARDS = 8
_BITS: Mapping[str, Literal[4, 8]] = {"int4": 4, "int8": 8}


class Published:
    """The files of a form, made from a source of tensors; `write` writes them, `nbytes` is their size.

    source: gives a tensor by its official name, of the slim vocabulary; it is cast to `dtype` (LayerNorms of
    float forms to float32, as published; everything in the int forms to float16).
    """

    def __init__(
        self,
        form: PublishedForm,
        config: ChatGLMConfig,
        source: Callable[[str], Tensor],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.form = form
        self.config = _early(config) if form == "early" else config
        self._source = source
        self._bits = _BITS.get(form)
        self._dtype = torch.float16 if self._bits else dtype
        self._infos = dict(self._layout())
        self._quantized: tuple[str, Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(map(nbytes, self._infos.values()))

    def write(self, folder: Path, progress: Progress | None = None) -> None:
        """Write config.json and weights into a folder; `progress` gets the bytes done and their total."""
        done = 0

        def read(name: str) -> Tensor:
            nonlocal done
            tensor = self._read(name)
            done += nbytes(self._infos[name])
            if progress is not None:
                progress(done, self.nbytes)
            return tensor

        (folder / CONFIG_NAME).write_text(json.dumps(self._config_json(), indent=2) + "\n", "utf-8")
        if self.form == "safetensors":
            write_safetensors(folder / "model.safetensors", self._infos, read)
        elif self.form in ("fp16-shards", "early"):
            self._write_shards(folder, read)
        else:
            write_bin(folder / "pytorch_model.bin", self._infos, read)

    def _layout(self) -> Iterator[tuple[str, TensorInfo]]:
        """Every stored tensor in the order of the files."""
        for name, shape in tensor_shapes(self.config).items():
            if self._bits and is_linear(name):
                yield name, TensorInfo((shape[0], shape[1] * self._bits // 8), torch.int8)
                yield f"{name}_scale", TensorInfo(shape[:1], torch.float16)
            else:
                norm = "layernorm" in name and not self._bits
                yield name, TensorInfo(shape, torch.float32 if norm else self._dtype)
            if name.endswith(".input_layernorm.bias"):
                block = name.removesuffix(".input_layernorm.bias")
                yield f"{block}.attention.rotary_emb.inv_freq", TensorInfo((self._angles,), torch.float16)
        if not self._bits and self.form != "safetensors":
            yield LM_HEAD, TensorInfo((self.config.vocab_size, self.config.hidden_size), self._dtype)

    @property
    def _angles(self) -> int:
        return self.config.head_size // 4

    def _read(self, name: str) -> Tensor:
        if name.endswith(".inv_freq"):
            return (10_000 ** -(torch.arange(self._angles) / self._angles)).half()
        if self._bits and is_linear(name.removesuffix("_scale")):
            return self._integers(name, self._bits)
        info = self._infos[name]
        tensor = self._source(EMBEDDINGS if name == LM_HEAD else name).to(info.dtype)
        if self.form == "early" and name in (EMBEDDINGS, LM_HEAD):
            image_rows = tensor[torch.arange(IMAGE_TOKENS, 0, -1) % len(tensor)]  # any values, never used
            tensor = torch.cat((image_rows, tensor))
        return tensor

    def _integers(self, name: str, bits: Literal[4, 8]) -> Tensor:
        """A quantised matrix or its scale, computed once for both: they are asked for one after the other."""
        matrix = name.removesuffix("_scale")
        if self._quantized is None or self._quantized[0] != matrix:
            self._quantized = (matrix, *quantize_thudm(self._source(matrix), bits))
        _, integers, scale = self._quantized
        return integers if name == matrix else scale

    def _write_shards(self, folder: Path, read: Callable[[str], Tensor]) -> None:
        """The output matrix goes alone into the last file."""
        head = {LM_HEAD: self._infos[LM_HEAD]}
        rest = {name: info for name, info in self._infos.items() if name != LM_HEAD}
        weight_map: dict[str, str] = {}
        for number, infos in enumerate((*_split(rest, SHARDS - 1), head), 1):
            file = f"pytorch_model-{number:05d}-of-{SHARDS:05d}.bin"
            write_bin(folder / file, infos, read)
            weight_map |= dict.fromkeys(infos, file)
        index = {"metadata": {"total_size": self.nbytes}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")

    def _config_json(self) -> dict[str, Any]:
        dtype = dtype_name(self._dtype)
        data = {**self.config.to_dict(), "torch_dtype": dtype, "use_cache": True}
        if self._bits:
            data |= {"quantization_bit": self._bits, "quantization_embeddings": False}
        return data


def _early(config: ChatGLMConfig) -> ChatGLMConfig:
    """The inverse of `ChatGLMConfig.slim`."""
    ids = {name: getattr(config, name) + IMAGE_TOKENS for name in EARLY_IDS}
    return replace(config, vocab_size=config.vocab_size + IMAGE_TOKENS, **ids)


def _split(infos: Mapping[str, TensorInfo], parts: int) -> list[dict[str, TensorInfo]]:
    """Cut into parts of about equal size, in order; each takes its share of what is left."""
    shards: list[dict[str, TensorInfo]] = [{}]
    left, filled = sum(map(nbytes, infos.values())), 0
    for name, info in infos.items():
        share = left / (parts + 1 - len(shards))
        if filled and filled + nbytes(info) / 2 > share and len(shards) < parts:
            shards.append({})
            left, filled = left - filled, 0
        shards[-1][name] = info
        filled += nbytes(info)
    return shards
