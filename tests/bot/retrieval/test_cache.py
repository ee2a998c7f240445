"""Vectors on disk: found again, damage skipped, foreign files replaced, a full disk survived."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bot.retrieval.cache import VectorCache, content_key
from bot.retrieval.vectors import Vectors, quantise

DIM = 8


def rows(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def keys(count: int) -> list[bytes]:
    return [content_key(f"text {i}") for i in range(count)]


def loaded(cache: VectorCache, wanted: list[bytes]) -> Vectors:
    vectors = Vectors(len(wanted), DIM)
    cache.fill(wanted, vectors)
    return vectors


def test_what_was_appended_is_found_in_any_order(tmp_path: Path) -> None:
    VectorCache(tmp_path / "new", "enc/oder", DIM).append(keys(5), *quantise(rows(5)))
    cache = VectorCache(tmp_path / "new", "enc/oder", DIM)
    cache.append(keys(7)[5:], *quantise(rows(2, 1)))
    wanted = [*reversed(keys(7)), content_key("unknown"), keys(1)[0]]
    found = loaded(cache, wanted)
    assert found.ready.tolist() == [True] * 7 + [False, True]
    assert np.allclose(found.get(slice(2, 7)), rows(5)[::-1], atol=0.005)
    assert (found.get(slice(8, 9)) == found.get(slice(6, 7))).all()


@pytest.mark.parametrize("cut", [5, 13, 31])
def test_torn_tail_costs_one_record_and_later_ones_still_count(tmp_path: Path, cut: int) -> None:
    cache = VectorCache(tmp_path, "e", DIM)
    cache.append(keys(3), *quantise(rows(3)))
    data = cache.path.read_bytes()
    cache.path.write_bytes(data[:-cut])
    cache.append(keys(4)[3:], *quantise(rows(1, 1)))
    assert loaded(cache, keys(4)).ready.tolist() == [True, True, False, True]


def test_damaged_record_is_skipped(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, "e", DIM)
    cache.append(keys(3), *quantise(rows(3)))
    data = bytearray(cache.path.read_bytes())
    size = (len(data) - 64) // 3
    data[64 + size + 20] ^= 1
    cache.path.write_bytes(data)
    assert loaded(cache, keys(3)).ready.tolist() == [True, False, True]


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 500, b"something else" * 100])
def test_foreign_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    cache = VectorCache(tmp_path, "e", DIM)
    cache.path.write_bytes(content)
    assert not loaded(cache, keys(1)).ready.any()
    cache.append(keys(1), *quantise(rows(1)))
    assert loaded(cache, keys(1)).ready.all()


def test_other_encoder_and_other_size_have_other_files(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, "e", DIM)
    cache.append(keys(1), *quantise(rows(1)))
    assert VectorCache(tmp_path, "f", DIM).path != cache.path
    assert VectorCache(tmp_path, "e", 2 * DIM).path != cache.path


def test_stale_records_are_compacted_away(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, "e", DIM)
    cache.append([content_key(f"old {i}") for i in range(3000)], *quantise(rows(3000)))
    cache.append(keys(2), *quantise(rows(2)))
    before = cache.path.stat().st_size
    cache.compact(keys(2), loaded(cache, keys(2)))
    assert cache.path.stat().st_size < before / 100
    assert loaded(cache, keys(2)).ready.all()
    assert [path.name for path in tmp_path.iterdir()] == [cache.path.name]


def test_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = VectorCache(blocked, "e", DIM)
    cache.append(keys(1), *quantise(rows(1)))
    cache.compact(keys(1), loaded(cache, keys(1)))
    assert not loaded(cache, keys(1)).ready.any()


def test_eight_bits_keep_cosines() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    small = Vectors(50, 512)
    small.put(slice(None), *quantise(vectors))
    every = np.arange(50)
    assert np.abs(small.dot(every, vectors[0]) - vectors @ vectors[0]).max() < 0.002
    assert quantise(np.zeros((1, 4), np.float32))[1][0] > 0
