"""The parameters of a ChatGLM, each as stored: float tensors or quantised integers."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TypeAlias

from torch import Tensor

from model import mma_tiles, tiles
from model.mma_tiles import MmaWeight
from model.quantize import QuantizedWeight
from model.tiles import TiledWeight

Matrix: TypeAlias = Tensor | QuantizedWeight | TiledWeight | MmaWeight
"""[out, in], in float or quantised, in rows or in tiles."""


def in_rows(matrix: Matrix) -> Tensor | QuantizedWeight:
    """The matrix row after row, itself where it is."""
    if isinstance(matrix, TiledWeight):
        return tiles.to_rows(matrix)
    return mma_tiles.to_rows(matrix) if isinstance(matrix, MmaWeight) else matrix


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + b; weight [out, in], bias [out]."""

    weight: Matrix
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """The affine part of a LayerNorm, each [hidden]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """One layer, under the names of the state dict; query_key_value has its rows interleaved per head."""

    input_layernorm: Norm
    query_key_value: Linear
    dense: Linear
    post_attention_layernorm: Norm
    dense_h_to_4h: Linear
    dense_4h_to_h: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """All parameters; the output matrix is the embedding (tied)."""

    word_embeddings: Matrix
    blocks: tuple[Block, ...]
    final_layernorm: Norm


def tensor_bytes(part: object) -> int:
    """Bytes of all tensors in a part of the weights, in whatever form."""
    if isinstance(part, Tensor):
        return part.nbytes
    if is_dataclass(part):
        return sum(tensor_bytes(getattr(part, one.name)) for one in fields(part))
    return 0
