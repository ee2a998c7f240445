"""Vectors on disk, keyed by the hash of what was encoded.

One file per encoder: a header, then fixed records (key, float16 vector, checksum), only ever appended to.
A torn or damaged record is skipped; a file with a foreign header is replaced by a fresh one.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
_MAGIC = b"glmbotv1"
_HEADER = 64
_CHUNK = 16_384


def content_key(text: str) -> bytes:
    """16 bytes that stand for one text."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=KEY_BYTES).digest()


class VectorCache:
    """The vectors of one encoder in one file of a folder; safe for several threads and processes."""

    def __init__(self, folder: Path, encoder: str, dim: int, kind: str = "texts") -> None:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", encoder)[:80]
        self.path = folder / f"{kind}-{safe}-{dim}.vectors"
        self.dim = dim
        self._record = np.dtype(
            [("key", np.uint8, KEY_BYTES), ("vector", np.float16, dim), ("sum", np.uint32)], align=False
        )
        identity = blake2b(f"{encoder}\0{dim}".encode(), digest_size=16).digest()
        self._header = (_MAGIC + identity).ljust(_HEADER, b"\0")
        self._lock = threading.Lock()

    def fill(self, keys: Sequence[bytes], vectors: NDArray[np.float16], ready: NDArray[np.bool_]) -> None:
        """Put stored vectors into the rows that are not `ready`, and mark these."""
        wanted: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(~ready).tolist():
            wanted.setdefault(keys[row], []).append(row)
        with self._lock:
            for records in self._chunks():
                blob = records["key"].tobytes()
                for i, start in enumerate(range(0, len(blob), KEY_BYTES)):
                    rows = wanted.get(blob[start : start + KEY_BYTES])
                    if rows:
                        vectors[rows] = records["vector"][i]
                        ready[rows] = True

    def append(self, keys: Sequence[bytes], vectors: NDArray[np.floating]) -> None:
        """Add records in one write; a disk that does not take them costs the cache, not the bot."""
        with self._lock:
            try:
                self._write(self._records(keys, vectors))
            except OSError:
                return

    def compact(self, keys: Sequence[bytes], vectors: NDArray[np.float16]) -> None:
        """Replace the file by these records when it holds more than twice as many."""
        with self._lock:
            if self._count() <= 2 * len(keys) + 1024:
                return
            draft = self.path.with_suffix(f".{os.getpid()}.draft")
            try:
                with draft.open("wb") as file:
                    file.write(self._header)
                    for start in range(0, len(keys), _CHUNK):
                        part = self._records(keys[start : start + _CHUNK], vectors[start : start + _CHUNK])
                        file.write(part.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self.path)
            except OSError:
                draft.unlink(missing_ok=True)

    def _count(self) -> int:
        try:
            return max(0, self.path.stat().st_size - _HEADER) // self._record.itemsize
        except OSError:
            return 0

    def _records(self, keys: Sequence[bytes], vectors: NDArray[np.floating]) -> NDArray[np.void]:
        records = np.zeros(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        records["vector"] = vectors
        records["sum"] = self._sums(records)
        return records

    def _sums(self, records: NDArray[np.void]) -> NDArray[np.uint32]:
        """A checksum per record that a run of zeros does not pass."""
        halves = np.ascontiguousarray(records["vector"]).view(np.uint16)
        places = np.arange(1, self.dim + 1, dtype=np.uint32)
        sums: NDArray[np.uint32] = (halves * places).sum(1, dtype=np.uint32) + np.uint32(1)
        return sums

    def _chunks(self) -> Iterator[NDArray[np.void]]:
        """Sound records of the file, a part at a time; an unreadable or foreign file has none."""
        size = self._record.itemsize
        try:
            with self.path.open("rb") as file:
                if file.read(_HEADER) != self._header:
                    return
                while blob := file.read(_CHUNK * size):
                    part = np.frombuffer(blob, self._record, len(blob) // size)
                    yield part[self._sums(part) == part["sum"]]
        except OSError:
            return

    def _write(self, records: NDArray[np.void]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("rb") as file:
                fresh = file.read(_HEADER) != self._header
        except FileNotFoundError:
            fresh = True
        if fresh:
            draft = self.path.with_suffix(f".{os.getpid()}.draft")
            draft.write_bytes(self._header)
            draft.replace(self.path)
        with self.path.open("ab", buffering=0) as file:
            torn = (file.tell() - _HEADER) % self._record.itemsize
            padding = b"\0" * ((self._record.itemsize - torn) % self._record.itemsize)
            file.write(padding + records.tobytes())
