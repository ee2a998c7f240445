"""Writes a packed file so that a kill at any point leaves no file or the whole one, and a later run goes on.

The tensors go to NAME.partial, whose size and places are known before the first byte; NAME.partial.json says
which parameters lie there safely, and under which header (source and options are part of it).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from model.config import PACKED_FORMAT, ChatGLMConfig
from model.packed import VERSION, Layout, Scheme, tensor_specs
from model.sizes import check_room, size_text
from model.tensor_file import TensorInfo
from model.tensor_writer import nbytes, safetensors_header
from model.types import ModelError

SYNC_EVERY = 1 << 24
"""Bytes written between two points from which a later run goes on."""

_ROOM = "make room or choose another folder, then run it again"
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A packed file to be: its header, and type, shape and place of every tensor."""

    parameters: dict[str, dict[str, TensorInfo]]
    dtypes: dict[str, torch.dtype]
    header: bytes
    offsets: dict[str, int]
    size: int

    @classmethod
    def make(
        cls,
        config: ChatGLMConfig,
        scheme: Scheme,
        float_dtype: Callable[[str], torch.dtype],
        notes: Mapping[str, str],
        layout: Layout = "rows",
    ) -> Plan:
        """`float_dtype` says as which float a tensor is stored; `notes` are further metadata."""
        parameters = {
            parameter: {
                name: TensorInfo(spec.shape, spec.dtype or float_dtype(name)) for name, spec in specs.items()
            }
            for parameter, specs in tensor_specs(config, scheme, layout, float_dtype).items()
        }
        tensors = {name: info for infos in parameters.values() for name, info in infos.items()}
        metadata = {
            "format": PACKED_FORMAT,
            "version": str(VERSION),
            "layout": layout,
            "config": json.dumps(config.to_dict()),
            "scheme": json.dumps(asdict(scheme)),
            **notes,
        }
        header, offsets = safetensors_header(tensors, metadata)
        dtypes = {name: info.dtype for name, info in tensors.items()}
        return cls(parameters, dtypes, header, offsets, len(header) + sum(map(nbytes, tensors.values())))

    def nbytes(self, parameter: str) -> int:
        """Bytes that a parameter takes, scales included."""
        return sum(map(nbytes, self.parameters[parameter].values()))


class PackedWriter:
    """Writes the tensors of a plan, parameter by parameter; `finish` makes the file appear under its name.

    Leaving the `with` block without `finish` keeps what is complete for the next run.
    """

    def __init__(self, file: Path, plan: Plan) -> None:
        """Take up an earlier run of the same plan, or begin. Raises ModelError (no room, another writer)."""
        self.file = file
        self._plan = plan
        self._partial = file.with_name(file.name + ".partial")
        self._journal = file.with_name(file.name + ".partial.json")
        self._unsynced = 0
        self._digest = hashlib.sha256(plan.header).hexdigest()
        with self._explaining():
            self._check_room()
            self._stream = self._open()
        try:
            self.done = self._read_journal()
            if not self.done:
                self._begin()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, name: str, values: Tensor, row: int = 0) -> None:
        """Store `values` as rows [row, row + n) of the stored tensor `name`."""
        if values.dtype != self._plan.dtypes[name]:
            raise ValueError(f"{name}: {values.dtype} does not fit the plan")
        row_bytes = values[:1].numel() * values.itemsize
        data = values.contiguous().reshape(-1).view(torch.uint8).numpy()
        with self._explaining():
            self._put(self._plan.offsets[name] + row * row_bytes, data.data.cast("B"))

    def complete(self, parameter: str) -> None:
        """Note that a parameter is written; every `SYNC_EVERY` bytes this reaches the disk, data first."""
        self.done.add(parameter)
        if self._unsynced >= SYNC_EVERY:
            with self._explaining():
                self._sync()
                state = {"header": self._digest, "done": sorted(self.done)}
                write_atomically(self._journal, json.dumps(state).encode())

    def finish(self) -> None:
        """Give the complete file its name."""
        missing = self._plan.parameters.keys() - self.done
        if missing:
            raise ValueError(f"not written: {sorted(missing)}")
        with self._explaining():
            self._sync()
            self._stream.close()
            os.replace(self._partial, self.file)
            _sync_folder(self.file.parent)
            for file in (self._journal, _new(self._journal)):
                file.unlink(missing_ok=True)

    def _open(self) -> FileIO:
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        # no buffer: closing it after an error must not try to write again
        stream = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        if not _lock(stream) or not _is_at(stream, self._partial):
            stream.close()
            problem = "another process is writing this file"
            raise ModelError(problem, file=self._partial, remedy="wait for it, or choose another folder")
        return stream

    def _read_journal(self) -> set[str]:
        try:
            journal = json.loads(self._journal.read_text("utf-8"))
            if (
                journal["header"] == self._digest
                and os.fstat(self._stream.fileno()).st_size == self._plan.size
            ):
                return self._plan.parameters.keys() & set(journal["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or not ours: begin anew
        return set()

    def _begin(self) -> None:
        with self._explaining():
            self._journal.unlink(missing_ok=True)
            _sync_folder(self.file.parent)  # or after a power cut it would vouch for what is not written yet
            self._stream.truncate(0)
            self._put(0, memoryview(self._plan.header))
            self._stream.truncate(self._plan.size)
            self._sync()

    def _put(self, offset: int, data: memoryview) -> None:
        self._unsynced += len(data)
        self._stream.seek(offset)
        while data:
            data = data[self._stream.write(data) :]

    def _sync(self) -> None:
        os.fsync(self._stream.fileno())
        self._unsynced = 0

    def _check_room(self) -> None:
        try:
            held = self._partial.stat().st_blocks * 512
        except (OSError, AttributeError):
            held = 0
        check_room(self.file.parent, self._plan.size - held, file=self.file, remedy=_ROOM)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                problem = f"the disk is full: the file needs {size_text(self._plan.size)}"
                raise ModelError(problem, file=self.file, remedy=_ROOM) from error
            problem = f"cannot be written: {error}"
            raise ModelError(problem, file=self.file, remedy="choose another target") from error


def write_atomically(file: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    new = _new(file)
    with new.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, file)


def _new(file: Path) -> Path:
    return file.with_name(file.name + ".new")


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where folders can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(stream: FileIO) -> bool:
    """Keep other writers off for as long as the stream is open, where the system can."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(stream: FileIO, file: Path) -> bool:
    """Whether the open file still has this name: another writer may have finished in between."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False
