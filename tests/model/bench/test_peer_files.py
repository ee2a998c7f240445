"""Files for peers, read back by the rules of their formats."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bench import ggml_file, gguf_file
from model.bench.ggml_file import write_ggml
from model.bench.gguf_file import write_gguf
from model.bench.q4_blocks import Q4_0, Entry, write_whole
from model.language_model import LanguageModel


@dataclass
class Cursor:
    """Reads little-endian numbers one after another."""

    data: bytes
    at: int = 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values[0] if len(values) == 1 else values

    def text(self, form: str) -> str:
        size = self.take(form)
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def align(self, size: int) -> None:
        self.at += -self.at % size


def stored(entry: Entry, data: bytes) -> np.ndarray[Any, Any]:
    """The numbers of a tensor: codes less 8 times the scale, low nibbles first."""
    if entry.kind != Q4_0:
        return np.frombuffer(data, "<f4")
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    codes = np.concatenate((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), axis=1)
    return ((codes.astype(np.float32) - 8) * scale).reshape(entry.shape)


def check(entry: Entry, data: bytes) -> None:
    numbers = stored(entry, data)
    if entry.kind == Q4_0:
        assert numbers.shape == entry.shape
        assert 0 < numbers.std() < 1
    else:
        assert (numbers == (1.0 if entry.name.endswith("norm.weight") else 0.0)).all()
        assert numbers.shape == entry.shape


def test_gguf_holds_metadata_and_tensors_where_it_says(tiny: LanguageModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "new" / "weights.gguf", tiny.config)
    cursor = Cursor(file.read_bytes())
    assert cursor.take("4s") == b"GGUF"
    version, tensors, fields = cursor.take("IQQ")
    assert version == 3
    found: dict[str, Any] = {}
    for _ in range(fields):
        key, kind = cursor.text("Q"), cursor.take("I")
        found[key] = cursor.text("Q") if kind == 8 else cursor.take({4: "I", 6: "f", 7: "?"}[kind])
    assert found["general.architecture"] == "gptneox"
    assert found["gptneox.block_count"] == 2
    assert found["gptneox.use_parallel_residual"] is False
    assert found["gptneox.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    entries = list(gguf_file.entries(tiny.config))
    offsets = []
    for entry in entries:
        assert cursor.text("Q") == entry.name
        axes = cursor.take("I")
        shape = [cursor.take("Q") for _ in range(axes)]
        assert tuple(reversed(shape)) == entry.shape
        assert cursor.take("I") == entry.kind
        offsets.append(cursor.take("Q"))
    cursor.align(32)
    for entry, offset in zip(entries, offsets, strict=True):
        assert offset % 32 == 0
        check(entry, cursor.data[cursor.at + offset : cursor.at + offset + entry.nbytes])
    assert len(entries) == tensors
    assert cursor.at + offsets[-1] + entries[-1].nbytes == len(cursor.data)


def test_ggml_holds_sizes_tokenizer_and_tensors(tiny: LanguageModel, tmp_path: Path) -> None:
    cursor = Cursor(write_ggml(tmp_path / "weights.ggml", tiny.config).read_bytes())
    assert cursor.take("4s") == b"ggml"
    assert cursor.take("ii") == (1, 2)
    assert cursor.take("7i") == (Q4_0, 192, 64, 4, 4, 2, 256)
    assert cursor.take("fifiii") == (pytest.approx(1e-5), 0, 10_000.0, 256, 165, 3)
    assert cursor.take(f"{cursor.take('i')}s")
    for entry in ggml_file.entries(tiny.config):
        assert cursor.text("i") == entry.name
        axes = cursor.take("i")
        assert tuple(cursor.take("i") for _ in range(axes)) == entry.shape
        assert cursor.take("i") == entry.kind
        cursor.align(16)
        check(entry, cursor.data[cursor.at : cursor.at + entry.nbytes])
        cursor.at += entry.nbytes
    assert cursor.at == len(cursor.data)


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    def fail(stream: Any) -> None:
        stream.write(b"begun")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_whole(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []
