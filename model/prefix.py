"""P-Tuning v2 prefixes: keys and values that stand before a sequence's own.

Source: Liu et al. 2021, "P-Tuning v2"; spec/chatglm-6b.md, section 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from model.checkpoint import PREFIX, read_tensors
from model.config import ChatGLMConfig
from model.quantize import dtype_name
from model.types import ModelError

EMBEDDING = "embedding.weight"
PROJECTION = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys [:, 0] (not rotated) and values [:, 1] of every layer, [layers, 2, length, heads, head size]."""

    values: Tensor
    name: str = ""

    @property
    def length(self) -> int:
        """Tokens it stands for; they count towards no position."""
        return self.values.shape[2]


class PrefixEncoder(nn.Module):
    """What is trained of a prefix of `length` tokens; its state dict is that of published checkpoints.

    `projection`: a small network makes the prefix of rows as wide as the hidden states. `dropout`: share of
    numbers dropped in training, 0.1 in the published recipe.
    """

    def __init__(
        self, config: ChatGLMConfig, length: int, *, projection: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.kv_values_per_token
        self.embedding = nn.Embedding(length, hidden if projection else width)
        layers = (nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, width)) if projection else ()
        self.trans = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self._shape = (length, config.num_layers, 2, config.num_attention_heads, config.head_size)

    def forward(self) -> Tensor:
        """`Prefix.values`, [layers, 2, length, heads, head size]."""
        values: Tensor = self.dropout(self.trans(self.embedding.weight)).view(self._shape)
        return values.permute(1, 2, 0, 3, 4)


class Network(Protocol):
    """What a prefix has to fit."""

    config: ChatGLMConfig
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        ...


class Loaded(Protocol):
    """A loaded model, as far as a prefix asks."""

    @property
    def network(self) -> Network: ...


def load_prefix(path: str | Path, model: Loaded) -> Prefix:
    """Read a prefix for a model: a checkpoint's folder or its `.bin` or `.safetensors`, full or prefix only.

    It is computed once, in float32, and kept in the model's dtype. Raises ModelError for what is no prefix or
    one of another base model.
    """
    path = Path(path)
    network = model.network
    stored, projection = _read(path, network.config)
    state = {name: tensor.float() for name, tensor in stored.items()}
    with torch.device("meta"):  # no memory for numbers that are replaced at once
        encoder = PrefixEncoder(network.config, len(state[EMBEDDING]), projection=projection)
    encoder.load_state_dict(state, assign=True)
    with torch.no_grad():
        values = encoder().to(device=network.device, dtype=network.dtype).contiguous()
    if not values.isfinite().all():
        raise ModelError(
            f"the prefix holds values that are not finite in {dtype_name(network.dtype)}",
            file=path,
            remedy="take an earlier checkpoint of the training, or load the model with dtype float32",
        )
    return Prefix(values, path.stem if path.is_file() else path.resolve().name)


def prefix_length(path: Path, config: ChatGLMConfig) -> int:
    """Tokens of a prefix; raises ModelError as `load_prefix`, for a base model of that configuration."""
    return len(_read(path, config)[0][EMBEDDING])


def _read(path: Path, config: ChatGLMConfig) -> tuple[dict[str, Tensor], bool]:
    """The checked tensors as they are stored, and whether there is a projection. Raises ModelError."""
    state = read_tensors(path, PREFIX)
    projection = any(name != EMBEDDING for name in state)
    _check(state, projection, config, path)
    return state, projection


def _check(state: dict[str, Tensor], projection: bool, config: ChatGLMConfig, path: Path) -> None:
    """Hold names and shapes against the model. Raises ModelError."""
    hidden, width = config.hidden_size, config.kv_values_per_token
    wanted: dict[str, tuple[int, ...]] = {EMBEDDING: (hidden if projection else width,)}
    if projection:
        wanted |= dict(zip(PROJECTION, ((hidden, hidden), (hidden,), (width, hidden), (width,)), strict=True))
    for name in sorted(wanted.keys() ^ state.keys()):
        problem = "the tensor is missing" if name in wanted else "is no part of a P-Tuning v2 prefix"
        raise ModelError(problem, file=path, tensor=PREFIX + name, remedy="name the prefix's own checkpoint")
    for name, shape in wanted.items():
        found = tuple(state[name].shape)
        if name == EMBEDDING:
            shape = (found[0] if found else 0, *shape)  # any number of tokens
        if found != shape:
            raise ModelError(
                f"has the shape {list(found)} where a model of {config.num_layers} layers and hidden size"
                f" {hidden} wants {list(shape)}: the prefix belongs to another base model",
                file=path,
                tensor=PREFIX + name,
                remedy="name a prefix trained on this model",
            )
