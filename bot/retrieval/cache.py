"""Vectors on disk, keyed by the hash of what was encoded.

One file per encoder: a header, then fixed records (key, codes, scale, checksum), only ever appended to.
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

from bot.retrieval.vectors import Codes, Floats, Vectors

KEY_BYTES = 16
_MAGIC = b"glmbotv2"
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
            [("key", np.uint8, KEY_BYTES), ("codes", np.int8, dim), ("scale", "<f4"), ("sum", "<u4")]
        )
        identity = blake2b(f"{encoder}\0{dim}".encode(), digest_size=16).digest()
        self._header = (_MAGIC + identity).ljust(_HEADER, b"\0")
        self._lock = threading.Lock()

    def fill(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Put the stored vectors of these keys [n] into the rows of `vectors` [n] that are not ready."""
        wanted: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(~vectors.ready).tolist():
            wanted.setdefault(keys[row], []).append(row)
        with self._lock:
            for records in self._chunks():
                pairs = [
                    (row, i)
                    for i, key in enumerate(_keys_of(records))
                    if key in wanted
                    for row in wanted[key]
                ]
                if pairs:
                    rows, found = np.asarray(pairs, np.int64).T
                    vectors.put(rows, records["codes"][found], records["scale"][found])

    def append(self, keys: Sequence[bytes], codes: Codes, scales: Floats) -> None:
        """Add records in one write; a disk that does not take them costs the cache, not the bot."""
        with self._lock:
            try:
                self._write(self._records(keys, codes, scales))
            except OSError:
                return

    def compact(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Replace the file by these records when it holds more than twice as many."""
        with self._lock:
            if self._count() <= 2 * len(keys) + 1024:
                return
            draft = self.path.with_suffix(f".{os.getpid()}.draft")
            try:
                with draft.open("wb") as file:
                    file.write(self._header)
                    for start in range(0, len(keys), _CHUNK):
                        part = slice(start, start + _CHUNK)
                        records = self._records(keys[part], vectors.codes[part], vectors.scales[part])
                        file.write(records.tobytes())
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

    def _records(self, keys: Sequence[bytes], codes: Codes, scales: Floats) -> NDArray[np.void]:
        records = np.zeros(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        records["codes"], records["scale"] = codes, scales
        records["sum"] = self._sums(records)
        return records

    def _sums(self, records: NDArray[np.void]) -> NDArray[np.uint32]:
        """A checksum per record that a run of zeros does not pass."""
        plain = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), -1)[:, :-4]
        places = np.arange(1, plain.shape[1] + 1, dtype=np.uint32)
        sums: NDArray[np.uint32] = plain @ places + np.uint32(1)
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


def _keys_of(records: NDArray[np.void]) -> list[bytes]:
    blob = records["key"].tobytes()
    return [blob[start : start + KEY_BYTES] for start in range(0, len(blob), KEY_BYTES)]
