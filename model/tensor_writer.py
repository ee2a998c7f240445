"""Writes files of tensors as a stream, one tensor in memory at a time: `.safetensors`, and torch's `.bin`."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.tensor_file import DTYPES, TensorInfo

Read = Callable[[str], Tensor]
"""Gives the tensor of a name; called once for each, in the order of the file."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int8: torch.CharStorage,
}
_ALIGNMENT = 64
_ENTRY_HEADER = 30 + 20 + 4
"""Bytes before an entry's values, but for its name: fixed part, zip64 field, head of the padding field."""


def nbytes(info: TensorInfo) -> int:
    """Bytes of the values of a tensor."""
    return prod(info.shape) * info.dtype.itemsize


def safetensors_header(
    infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The head of a `.safetensors` file, and where in the file each tensor begins, in the file's order.

    Tensors begin at multiples of 64 bytes wherever the sizes before them allow.
    """

    def rank(name: str) -> tuple[bool, int]:
        # values may not have gaps: what keeps the alignment comes first, then wide elements
        return nbytes(infos[name]) % _ALIGNMENT != 0, -infos[name].dtype.itemsize

    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(infos, key=rank):
        starts[name], end = end, end + nbytes(infos[name])
        entries[name] = {
            "dtype": _NAMES[infos[name].dtype],
            "shape": infos[name].shape,
            "data_offsets": (starts[name], end),
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)  # the format allows blanks after the header
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + start for name, start in starts.items()}


def write_safetensors(path: Path, infos: Mapping[str, TensorInfo], read: Read) -> None:
    """Write all tensors of `infos`."""
    header, starts = safetensors_header(infos, {"format": "pt"})
    with path.open("wb") as stream:
        stream.write(header)
        for name in starts:
            stream.write(_data(read(name), infos[name]))


def write_bin(path: Path, infos: Mapping[str, TensorInfo], read: Read) -> None:
    """Write what `torch.save` makes of a state dict: a zip of a pickle and one entry for each storage."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "archive/data.pkl", _pickled(infos))
        _write_entry(archive, "archive/byteorder", b"little")
        for key, name in enumerate(infos):
            _write_entry(archive, f"archive/data/{key}", _data(read(name), infos[name]))
        _write_entry(archive, "archive/version", b"3\n")


def _data(tensor: Tensor, info: TensorInfo) -> memoryview:
    if (tuple(tensor.shape), tensor.dtype) != (info.shape, info.dtype):
        raise ValueError(f"{tensor.dtype} {list(tensor.shape)} is not the tensor announced")
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_entry(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(name)
    padding = -(archive.start_dir + _ENTRY_HEADER + len(name)) % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding  # as torch pads, to map aligned values
    with archive.open(entry, "w", force_zip64=True) as stream:
        stream.write(data)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class _Stored:
    """Stands for a tensor while the state dict is pickled."""

    storage: _Storage


class _StatePickler(pickle.Pickler):
    """Pickles stand-ins as torch pickles tensors, so that none has to exist."""

    def persistent_id(self, item: object) -> object:
        if not isinstance(item, _Storage):
            return None
        return ("storage", _STORAGES[item.info.dtype], item.key, "cpu", prod(item.info.shape))

    def reducer_override(self, item: object) -> Any:
        if not isinstance(item, _Stored):
            return NotImplemented
        shape = item.storage.info.shape
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        arguments: tuple[Any, ...] = (item.storage, 0, shape, strides, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


def _pickled(infos: Mapping[str, TensorInfo]) -> bytes:
    stored = (_Stored(_Storage(str(key), info)) for key, info in enumerate(infos.values()))
    state = OrderedDict(zip(infos, stored, strict=True))
    stream = io.BytesIO()
    _StatePickler(stream, protocol=2).dump(state)
    return stream.getvalue()
