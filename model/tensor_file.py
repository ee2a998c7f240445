"""Files of tensors, `.bin` and `.safetensors`: shapes unread, one tensor at a time, never any code."""

from __future__ import annotations

import errno
import io
import json
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.lfs import refuse_pointer
from model.types import ModelError

_ZIP = b"PK\x03\x04"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
_REBUILDING = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
"""What an honest `.bin` names besides the storages of torch."""
_PICKLES = 5
"""Before 2020 these followed each other: a magic number, the format, the system, the tensors, their keys."""
_HEAD = 1 << 22
"""Bytes of pickles that are searched for code: that of 10,000 tensors is shorter."""
_AGAIN = "download it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorFile:
    """The tensors of one file; `tensors` tells names, shapes and dtypes. Raises ModelError if it is damaged.

    A `.bin` stays open from the first `read` until `forget`: mapped, so that what was read of it takes memory
    that the system can take back, or whole in memory if its format is that from before 2020. A `.safetensors`
    is mapped anew for every tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            refuse_pointer(path)
            self.tensors = _safetensors_infos(path) if _is_safetensors(path) else _infos(_load_bin(path))
        self._state: Mapping[str, Tensor] | None = None

    def read(self, name: str) -> Tensor:
        """The tensor as stored, a view of the mapped file. Raises KeyError, and ModelError."""
        with _readable(self.path):
            if _is_safetensors(self.path):
                with safe_open(self.path, framework="pt", device="cpu") as file:
                    tensor: Tensor = file.get_tensor(name)
                return tensor
            if self._state is None:
                self._state = _load_bin(self.path)
            return self._state[name].detach()

    def forget(self) -> None:
        """Close a `.bin`; tensors that are still used keep its mapping."""
        self._state = None


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a folder, by its index or the usual names; or the file itself.

    `.safetensors` go before `.bin`, one file before shards. Raises ModelError, also for a missing shard.
    """
    if path.is_file():
        return _indexed(path) if path.name.endswith(".index.json") else (path,)
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = path / f"{name}.index.json"
        if (path / name).is_file():
            return (path / name,)
        if index.is_file():
            return _indexed(index)
    others = tuple(path.glob("*.safetensors"))
    if len(others) == 1:
        return others
    raise ModelError(
        "there are no weights: neither model.safetensors nor pytorch_model.bin nor an index of either",
        file=path,
        remedy="name the folder or the file that holds them",
    )


def _indexed(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"is no index of shards: {error!r}", file=index, remedy=_AGAIN) from None
    if not names:
        raise ModelError("names no shard", file=index, remedy=_AGAIN)
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"names a shard outside its folder: {name!r}", file=index, remedy=_AGAIN)
        if not (index.parent / name).is_file():
            raise ModelError(
                f"the shard is missing, {index.name} names it", file=index.parent / name, remedy=_AGAIN
            )
    return tuple(index.parent / name for name in names)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_ZIP)) == _ZIP


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", file=path, remedy=_AGAIN) from None
    except SafetensorError as error:
        raise ModelError(f"is damaged or cut short: {error}", file=path, remedy=_AGAIN) from None


def _safetensors_infos(path: Path) -> dict[str, TensorInfo]:
    infos = {}
    with safe_open(path, framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            dtype = DTYPES.get(part.get_dtype())
            if dtype is None:
                raise ModelError(
                    f"has the unknown type {part.get_dtype()}",
                    file=path,
                    tensor=name,
                    remedy="use a published form: float16, int8 or int4",
                )
            infos[name] = TensorInfo(tuple(part.get_shape()), dtype)
    return infos


def _infos(state: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


def _load_bin(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a `.bin`, mapped where its format allows; its pickle may rebuild tensors only."""
    mappable = _is_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols and storages
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except Exception as error:  # a damaged file makes torch raise whatever its bytes lead to
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is of a mapping past the end
            raise
        if isinstance(error, pickle.UnpicklingError) and _holds_code(path):
            raise ModelError(
                "holds code, not only tensors; nothing of it was run",
                file=path,
                remedy="take the weights from a source you trust, best as .safetensors",
            ) from None
        raise ModelError(_damage(path), file=path, remedy=_AGAIN) from None
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and _is_dense(tensor)
        for name, tensor in state.items()
    ):
        raise ModelError(
            "is no state dict: a mapping of names to dense tensors", file=path, remedy="name the weights file"
        )
    return state


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has a number for every place of its shape; one on the device meta has none."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def _damage(path: Path) -> str:
    """What is wrong with a `.bin` that torch cannot read, as far as its first bytes and its end tell."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(len(_ZIP))
    if not head:
        return "is empty"
    if _ZIP.startswith(head):
        return "is damaged" if zipfile.is_zipfile(path) else f"is cut short ({size} bytes)"
    if head.startswith(pickle.PROTO):
        return f"is damaged or cut short ({size} bytes)"
    return "is no file of tensors"


def _holds_code(path: Path) -> bool:
    """Whether the pickles of a `.bin` name anything that no tensor is rebuilt with; nothing is run."""
    stream = io.BytesIO(_pickles(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged bytes may read as odd escapes
            return any(not _rebuilds(name) for _ in range(_PICKLES) for name in _imports(stream))
    except ValueError:
        return False  # no pickle, or not up to here


def _pickles(path: Path) -> bytes:
    """The beginning of a `.bin`, or of the one pickle in it if it is an archive."""
    if not _is_zip(path):
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as member:
                return member.read(_HEAD)
    except (zipfile.BadZipFile, StopIteration):
        return b""


def _imports(stream: io.BytesIO) -> Iterator[str]:
    """The classes and functions, "module name", of the next pickle. Raises ValueError where it is none."""
    texts: list[str] = []
    memo: dict[object, str] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":
            yield " ".join(texts[-2:])
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif opcode.name.endswith("GET"):
            texts.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            texts.append(argument)


def _rebuilds(name: str) -> bool:
    return name in _REBUILDING or (name.startswith("torch ") and name.endswith("Storage"))
