"""The project's packed file: a safetensors file with metadata, written once and memory-mapped.

Tensors bear the names of the published state dict. A quantised matrix NAME.weight lies as NAME.weight
(integers), NAME.weight_scale and, with zero-points, NAME.weight_zero, in the order that the layout names.
Metadata (strings): format, version, layout, config and scheme (JSON), source (fingerprint) and whatever else
the writer notes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model import mma_tiles, tiles
from model.checkpoint import EMBEDDINGS, fingerprint, is_matrix, tensor_shapes
from model.config import PACKED_FORMAT, PACKED_NAME, ChatGLMConfig, packed_file
from model.huge_pages import MappedFile
from model.lfs import refuse_pointer
from model.mma_tiles import MmaWeight
from model.quantize import QuantizedWeight, dtype_name
from model.tensor_file import DTYPES
from model.tiles import TiledWeight
from model.types import ModelError
from model.weights import Matrix

VERSION = 1
Layout: TypeAlias = Literal["rows", "tiles16", "mma16"]
"""The order of quantised matrices. rows: row after row, as in `QuantizedWeight`. tiles16, mma16: as in
`TiledWeight` or `MmaWeight` where their shape fits and their scales are float16, else rows."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_CONVERT = "convert the model again with `glmbot model convert`"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the matrices are stored.

    bits: of the four linears of every block (None: floats); group_size: columns that share a scale (None: a
    whole row); zero: with zero-points; head_bits: of the tied embedding, one scale per row (None: floats).
    """

    bits: Literal[4, 8] | None = 4
    group_size: int | None = 64
    zero: bool = False
    head_bits: Literal[8] | None = 8

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scheme:
        """The inverse of `asdict`. Raises TypeError and ValueError."""
        scheme = cls(**data)
        known = scheme.bits in (4, 8, None) and scheme.head_bits in (8, None)
        if not known or (scheme.group_size is not None and scheme.group_size < 1):
            raise ValueError(f"no such scheme: {data}")
        return scheme

    def of(self, name: str, columns: int) -> tuple[Literal[4, 8] | None, int, bool]:
        """Bits, columns per scale and whether zero-points exist, for one matrix."""
        if name == EMBEDDINGS:
            return self.head_bits, columns, False
        return self.bits, self.group_size or columns, self.zero


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape of a stored tensor; dtype None: any float."""

    dtype: torch.dtype | None
    shape: tuple[int, ...]

    def nbytes(self, float_dtype: torch.dtype) -> int:
        """Bytes, if floats are stored as `float_dtype`."""
        return math.prod(self.shape) * (self.dtype or float_dtype).itemsize


Specs: TypeAlias = dict[str, TensorSpec]
ScaleDtype: TypeAlias = Callable[[str], torch.dtype | None]


def tensor_specs(
    config: ChatGLMConfig, scheme: Scheme, layout: Layout = "rows", scale_dtype: ScaleDtype = lambda _: None
) -> dict[str, Specs]:
    """For every parameter, by its official name, the tensors that store it.

    scale_dtype: of a matrix's scales, by the name of the tensor; layouts of tiles ask it.
    """
    specs = {}
    for name, shape in tensor_shapes(config).items():
        if not is_matrix(name):
            specs[name] = {name: TensorSpec(None, shape)}
        else:
            half = layout != "rows" and scale_dtype(f"{name}_scale") == torch.float16
            specs[name] = _matrix_specs(name, shape, scheme, layout if half else "rows")
    return specs


def _matrix_specs(name: str, shape: tuple[int, ...], scheme: Scheme, layout: Layout) -> Specs:
    out, columns = shape
    bits, group_size, zero = scheme.of(name, columns)
    if bits is None:
        return {name: TensorSpec(None, (out, columns))}
    tiled = _tiled_shapes(layout, bits, group_size, shape, zero)
    if tiled is not None:
        packed, groups = TensorSpec(torch.uint8, tiled[0]), TensorSpec(torch.float16, tiled[1])
    else:
        packed = TensorSpec(torch.int8, (out, columns))
        if bits == 4:
            packed = TensorSpec(torch.uint8, (out, math.ceil(columns / 2)))
        groups = TensorSpec(None, (out, math.ceil(columns / group_size)))
    specs = {name: packed, f"{name}_scale": groups}
    return specs | {f"{name}_zero": groups} if zero else specs


def _tiled_shapes(
    layout: Layout, bits: Literal[4, 8], group_size: int, shape: tuple[int, ...], zero: bool
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Of integers and scales of a matrix that the tiles of a layout can hold."""
    out, columns = shape
    if layout == "tiles16" and tiles.fits_shape(bits, group_size, columns):
        return tiles.shapes(bits, group_size, out, columns)
    if (
        layout == "mma16"
        and mma_tiles.fits_shape(bits, group_size, out, columns)
        and not (zero and bits == 8)
    ):
        return mma_tiles.shapes(bits, group_size, out, columns)
    return None


class Packed:
    """An open packed file; every tensor it gives is a view of the mapped file, no copy."""

    form: Final = "packed"

    def __init__(self, file: Path, mapped: MappedFile) -> None:
        """Raises ModelError, and whatever a header that is none leads to."""
        self.file = file
        self.files = (file,)
        self.folder = file.parent
        self._mapped = mapped
        self._values = 8 + int.from_bytes(mapped[:8], "little")
        self._header: dict[str, Any] = json.loads(mapped[8 : self._values])
        self.metadata: dict[str, str] = self._header.pop("__metadata__", {})
        if self.metadata.get("format") != PACKED_FORMAT:
            raise ModelError("is no packed file of glmbot", file=file, remedy=_CONVERT)
        version, layout = self.metadata.get("version", ""), self.metadata.get("layout", "")
        if version != str(VERSION) or layout not in get_args(Layout):
            problem = f"has version {version!r} and layout {layout!r}, which this glmbot does not know"
            raise ModelError(problem, file=file, remedy=f"update glmbot, or {_CONVERT}")
        self.layout = cast(Layout, layout)
        try:
            self.config = ChatGLMConfig.from_dict(json.loads(self.metadata["config"]), file)
            self.scheme = Scheme.from_dict(json.loads(self.metadata["scheme"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ModelError(f"has damaged metadata: {error!r}", file=file, remedy=_CONVERT) from None
        self._check()

    @classmethod
    def open(cls, path: Path) -> Packed:
        """Open a file, or the one in a folder, and check every tensor's type and shape. Raises ModelError."""
        file = packed_file(path) or (path / PACKED_NAME if path.is_dir() else path)
        try:
            refuse_pointer(file)
            with safe_open(file, framework="pt"):  # checks the header and the size
                mapped = MappedFile(file)
        except FileNotFoundError:
            raise ModelError("there is no such file", file=file, remedy=_CONVERT) from None
        except (OSError, SafetensorError) as error:
            problem = f"is truncated or damaged ({error})"
            raise ModelError(
                problem, file=file, remedy=f"copy it anew to another name and rename that, or {_CONVERT}"
            ) from None
        return cls(file, mapped)

    def _check(self) -> None:
        parameters = tensor_specs(self.config, self.scheme, self.layout, self._find_dtype)
        for name, spec in (spec for specs in parameters.values() for spec in specs.items()):
            if name not in self._header:
                raise self.error("is missing", name)
            dtype, shape = self._find_dtype(name), tuple(self._header[name]["shape"])
            right = dtype in _FLOATS if spec.dtype is None else dtype == spec.dtype
            if shape != spec.shape or not right:
                wanted = "float" if spec.dtype is None else dtype_name(spec.dtype)
                raise self.error(
                    f"is {dtype_name(dtype)} {list(shape)}, not {wanted} {list(spec.shape)}", name
                )

    def _find_dtype(self, name: str) -> torch.dtype | None:
        """As stored; None for what is not there, or of no known type."""
        return DTYPES.get(self._header[name]["dtype"]) if name in self._header else None

    @property
    def names(self) -> list[str]:
        """Every stored tensor."""
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape of a parameter, [out, in] of a matrix, however it is packed."""
        return tensor_shapes(self.config)[name]

    def dtype(self, name: str) -> torch.dtype:
        """As stored."""
        return DTYPES[self._header[name]["dtype"]]

    def read(self, name: str) -> Tensor:
        """A stored tensor, mapped. The file may be replaced meanwhile, but not changed in place."""
        stored = self._header[name]
        start = self._values + stored["data_offsets"][0]
        return self._mapped.tensor(start, tuple(stored["shape"]), self.dtype(name))

    def populate(self) -> float:
        """Bring the whole file into memory; returns how much of it lies in huge pages."""
        return self._mapped.populate()

    def forget(self, name: str) -> None:
        """Let go of the memory of a parameter that was copied: its pages of the mapped file count no more."""
        for end in ("", "_scale", "_zero"):
            if name + end in self._header:
                start, end_of_it = self._header[name + end]["data_offsets"]
                self._mapped.forget(self._values + start, end_of_it - start)

    def matrix(self, name: str) -> Matrix:
        """The matrix `name` (ends in .weight), in floats or quantised as stored, in the file's order."""
        stored = self.read(name)
        out, columns = self.shape(name)
        bits, group_size, zero = self.scheme.of(name, columns)
        if bits is None:
            return stored
        scale, points = self.read(f"{name}_scale"), self.read(f"{name}_zero") if zero else None
        if stored.ndim == 3:
            tiled = TiledWeight if self.layout == "tiles16" else MmaWeight
            return tiled(bits, group_size, out, columns, stored, scale, points)
        return QuantizedWeight(bits, group_size, columns, stored, scale, points)

    def fingerprint(self) -> str:
        """Changes when the file does."""
        return fingerprint(self.file)

    def error(self, problem: str, name: str, remedy: str = _CONVERT) -> ModelError:
        """A ModelError about a tensor of this file."""
        return ModelError(problem, file=self.file, tensor=name, remedy=remedy)


def is_packed(path: Path) -> bool:
    """Whether a path is a packed file or a folder that holds one (in whatever state it is)."""
    return packed_file(path) is not None
