"""A packed file of random integers in the true shapes, which is as fast to read as a real one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import EMBEDDINGS
from model.config import PACKED_NAME, ChatGLMConfig
from model.packed import Packed, Scheme
from model.packed_writer import PackedWriter, Plan
from model.tensor_file import TensorInfo

_LOGIT_STD = 4.0
OF_CODES = {4: 4.6, 8: 73.9}
"""Standard deviations of integers that are all equally likely."""


def cache_folder() -> Path:
    """Where such files stay for the next run."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "glmbot" / "bench"


def random_packed(folder: Path, layers: int) -> Path:
    """The packed file with so many layers of ChatGLM-6B, written if it is not there: 3.5 GB with all 28.

    INT4 in groups of 64 with an INT8 head, as `glmbot model convert` makes it, in tiles. Raises ModelError.
    """
    config = replace(ChatGLMConfig(), num_layers=layers)
    return write(folder / f"random-chatglm-6b-{layers}-layers", config)


def write(folder: Path, config: ChatGLMConfig) -> Path:
    """The packed file of a configuration in a folder, as it is where it is there."""
    file = folder / PACKED_NAME
    if file.is_file():
        return Packed.open(file).file
    folder.mkdir(parents=True, exist_ok=True)
    scheme = Scheme()
    plan = Plan.make(config, scheme, lambda _: torch.float16, {"source": "random"}, "tiles16")
    draws = np.random.default_rng(0)
    with PackedWriter(file, plan) as writer:
        for parameter, tensors in plan.parameters.items():
            if parameter in writer.done:
                continue
            std = _LOGIT_STD if parameter == EMBEDDINGS else 1.0
            for name, info in tensors.items():
                bits = scheme.of(parameter, 1)[0] or 4
                columns = config.inner_hidden_size if "4h_to_h" in name else config.hidden_size
                scale = std / columns**0.5 / OF_CODES[bits]
                writer.write(name, _values(name, info, scale, draws))
            writer.complete(parameter)
        writer.finish()
    return file


def _values(name: str, info: TensorInfo, scale: float, draws: np.random.Generator) -> Tensor:
    """Any integers; scales that keep outputs near 1; LayerNorms and biases that change nothing."""
    if info.dtype == torch.uint8:
        size = info.shape[0] * info.shape[1] * info.shape[2]
        return torch.from_numpy(np.frombuffer(draws.bytes(size), np.uint8).copy()).view(info.shape)
    value = scale if name.endswith("_scale") else float(name.endswith("layernorm.weight"))
    return torch.full(info.shape, value, dtype=info.dtype)
