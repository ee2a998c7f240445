"""What brings weights into memory: a checkpoint or a packed file, quantised on the way as asked.

What is stored as integers is kept to the bit, scales and all, whatever is asked: to quantise integers once
more would only lose, so INT8 becomes INT4 by converting the float weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import structlog
import torch
from torch import Tensor

from model import huge_pages, memory
from model.checkpoint import EMBEDDINGS, Checkpoint, is_matrix
from model.config import ChatGLMConfig
from model.kv_cache import Storage
from model.mma_tiles import MmaWeight
from model.packed import Packed, Scheme, is_packed
from model.quantize import QuantizedWeight, quantize_int4, quantize_int4_hqq, quantize_int8
from model.sizes import size_text
from model.tiles import TiledWeight
from model.types import ModelError, Quantization
from model.weights import Block, Linear, Matrix, Norm, Weights, in_rows

log = structlog.get_logger(__name__)
Head: TypeAlias = Literal["auto", "int8", "float16"]

_SCALE = torch.float16
_OTHERS = "use other weights, or quantization none"
_FULL = "found no room on the device"
_MAKE_ROOM = "close other programs that use it, or take the device cpu"
_STORED = {
    "float": Scheme(None, group_size=None, head_bits=None),
    "int8": Scheme(8, group_size=None, head_bits=None),
    "int4": Scheme(4, group_size=None, head_bits=None),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How floats are quantised.

    group_size and search (of the scale with the least error) are INT4's; hqq: with zero-points instead.
    head: of the tied embedding; "auto" is INT8 where the blocks are quantised here, else as it is stored.
    """

    quantization: Quantization = "int4"
    group_size: int = 64
    search: bool = True
    hqq: bool = False
    head: Head = "auto"

    def scheme(self, stored: Scheme) -> Scheme:
        """What becomes of matrices that are stored so."""
        quantizes = stored.bits is None and self.quantization != "none"
        head_bits = stored.head_bits
        if self.head == "int8" or (self.head == "auto" and quantizes):
            head_bits = 8
        if not quantizes:
            return Scheme(stored.bits, stored.group_size, stored.zero, head_bits)
        if self.quantization == "int8":
            return Scheme(8, None, False, head_bits)
        return Scheme(4, self.group_size, self.hqq, head_bits)

    def quantize(self, weight: Tensor, bits: Literal[4, 8], name: str) -> QuantizedWeight:
        """A matrix; `name` is for the ModelError of one that cannot be quantised."""
        if bits == 8:
            return quantize_int8(weight, name=name)
        if self.hqq:
            return quantize_int4_hqq(weight, self.group_size, name=name)
        return quantize_int4(weight, self.group_size, search=self.search, name=name)


class Reader:
    """The parameters of a source in the scheme of a recipe.

    dtype: of matrices in floats, None as stored. device: where floats are quantised, and their integers then
    are; None is the CPU.
    """

    def __init__(
        self,
        source: Checkpoint | Packed,
        recipe: Recipe,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
    ) -> None:
        self.source = source
        self._device = device
        self.stored = source.scheme if isinstance(source, Packed) else _STORED[source.form]
        self.scheme = recipe.scheme(self.stored)
        self._recipe = recipe
        self._dtype = dtype

    def float_dtype(self, name: str) -> torch.dtype:
        """As which float a tensor (a parameter, or NAME.weight_scale and the like) is kept."""
        parameter = _parameter(name)
        if parameter != name and self.stored.of(parameter, 1)[0] is None:
            return _SCALE
        if is_matrix(name) and self.stored.bits is None and self._dtype is not None:
            return self._dtype
        if name == EMBEDDINGS and self._recipe.head == "float16":
            return torch.float16
        dtype = self.source.dtype(name)
        return torch.float32 if dtype == torch.float64 else dtype

    def vector(self, name: str) -> Tensor:
        """A bias, or a part of a LayerNorm, as stored. Raises ModelError where a value is not finite."""
        values = self.source.read(name)
        self._check_finite(values, name)
        return values

    def matrix(self, name: str) -> Matrix:
        """A matrix; a view of the mapped file where nothing is changed.

        Raises ModelError where a scale, a zero-point or a weight that is quantised here is not finite (floats
        that stay floats are too many to look at), or there is no room to quantise it.
        """
        stored = self.source.matrix(name)
        bits, _, _ = self.scheme.of(name, self.source.shape(name)[1])
        if isinstance(stored, QuantizedWeight | TiledWeight | MmaWeight):
            self._check_finite(stored.scale, f"{name}_scale")
            if stored.zero is not None:
                self._check_finite(stored.zero, f"{name}_zero")
            return stored
        if bits is None:
            return stored.to(self.float_dtype(name))
        try:
            floats = stored if self._device is None else stored.to(self._device)
            return self._recipe.quantize(floats, bits, name)
        except ModelError as error:
            raise self.source.error(error.problem, name, error.remedy or _OTHERS) from None
        except torch.OutOfMemoryError as error:
            raise self.source.error(_FULL, name, _MAKE_ROOM) from error

    def _check_finite(self, values: Tensor, name: str) -> None:
        low, high = values.aminmax()  # NaN wins both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise self.source.error("holds values that are not finite: no answer would come of it", name)


def open_source(path: Path) -> Checkpoint | Packed:
    """A packed file or the folder with one (whatever else lies there), or a checkpoint. Raises ModelError."""
    return Packed.open(path) if is_packed(path) else Checkpoint.open(path)


def estimate(
    reader: Reader, *, dtype: torch.dtype, storage: Storage = "float16", context: int | None = None
) -> memory.MemoryPlan:
    """What the weights will take in memory, and a talk as long as `context`; None: as it was trained for.

    storage: of keys and values.
    """
    config = reader.source.config

    def float_dtype(name: str) -> torch.dtype:
        return reader.float_dtype(name) if is_matrix(_parameter(name)) else dtype

    weights = memory.weight_bytes(config, reader.scheme, float_dtype)
    context = context or config.max_sequence_length
    return memory.plan(config, weights, dtype=dtype, storage=storage, context=context)


def load_weights(
    path: Path,
    *,
    quantization: Quantization = "int4",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    storage: Storage = "float16",
    context: int | None = None,
    prepare: Callable[[Matrix], Matrix] = in_rows,
) -> tuple[ChatGLMConfig, Weights]:
    """The weights of a checkpoint or packed file, with floats in `dtype`.

    prepare: puts a matrix into the order in which it is used, on the device; it is called with one after the
    other, and what it leaves as it is stays mapped on the CPU, but that tiles are copied into huge pages
    where `huge_pages.choose` says so. Integers, their scales and the embedding beside them are kept as they
    are stored. Before anything is read, the memory for all and for a talk of `context` tokens with keys and
    values in `storage` is logged; raises ModelError, also if there is less.
    """
    device = device or torch.device("cpu")
    source = open_source(path)
    reader = Reader(source, Recipe(quantization), dtype, device)
    plan = estimate(reader, dtype=dtype, storage=storage, context=context)
    free = memory.available(device)
    _tell(plan, free)
    memory.check(plan, device, file=path)

    def vector(name: str) -> Tensor:
        return reader.vector(name).to(device, dtype)

    def norm(name: str) -> Norm:
        return Norm(vector(f"{name}.weight"), vector(f"{name}.bias"))

    @functools.cache
    def copies(mapped: Packed) -> bool:
        yes, reason = huge_pages.choose(mapped.populate, plan.total, free)
        log.info("weights are copied into huge pages" if yes else "weights stay mapped", reason=reason)
        return yes

    def matrix(name: str) -> Matrix:
        stored = reader.matrix(name)
        if device.type != "cpu":
            # the CPU's tiles are put into rows where they lie, all else is done where it is faster
            rows = in_rows(stored) if isinstance(stored, TiledWeight) else stored
            try:
                ready = prepare(rows.to(device))
            except torch.OutOfMemoryError as error:
                raise source.error(_FULL, name, _MAKE_ROOM) from error
            if isinstance(source, Packed):
                source.forget(name)
            return ready
        ready = prepare(stored)
        if not isinstance(source, Packed):
            return ready
        if isinstance(ready, TiledWeight) and ready is stored and copies(source):
            ready = ready.copy()
        if ready is not stored:
            source.forget(name)
        return ready

    def linear(name: str) -> Linear:
        return Linear(matrix(f"{name}.weight"), vector(f"{name}.bias"))

    def block(name: str) -> Block:
        return Block(
            input_layernorm=norm(f"{name}.input_layernorm"),
            query_key_value=linear(f"{name}.attention.query_key_value"),
            dense=linear(f"{name}.attention.dense"),
            post_attention_layernorm=norm(f"{name}.post_attention_layernorm"),
            dense_h_to_4h=linear(f"{name}.mlp.dense_h_to_4h"),
            dense_4h_to_h=linear(f"{name}.mlp.dense_4h_to_h"),
        )

    config = source.config
    embeddings = matrix(EMBEDDINGS)
    blocks = tuple(block(f"transformer.layers.{layer}") for layer in range(config.num_layers))
    return config, Weights(embeddings, blocks, norm("transformer.final_layernorm"))


def _tell(plan: memory.MemoryPlan, free: int | None) -> None:
    log.info(
        "memory for the model",
        weights=size_text(plan.weights),
        kv_cache=size_text(plan.kv_cache),
        workspace=size_text(plan.workspace),
        available="unknown" if free is None else size_text(free),
    )


def _parameter(stored: str) -> str:
    """The parameter that a stored tensor belongs to."""
    return stored.removesuffix("_scale").removesuffix("_zero")
