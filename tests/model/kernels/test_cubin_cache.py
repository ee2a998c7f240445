"""The folder of compiled kernels, which needs no compiler and no card."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.kernels.cubin_cache import MOST, CubinCache, cache_folder
from model.kernels.nvrtc import Compiled


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = CubinCache(tmp_path)
    for number in range(MOST + 5):
        cache.put(str(number), Compiled(b"cubin", {"kernel": "name"}))
    assert len(list(tmp_path.iterdir())) == MOST
    assert cache.get(str(MOST + 4)) == Compiled(b"cubin", {"kernel": "name"})
    assert cache.get("0") is None


def test_what_others_keep_in_the_folder_stays(tmp_path: Path) -> None:
    """Somebody may name a folder that is used for more, such as /tmp."""
    others = [tmp_path / f"letter {number}.txt" for number in range(MOST + 5)]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    cache = CubinCache(tmp_path)
    cache.put("key", Compiled(b"cubin", {"kernel": "name"}))
    assert all(other.exists() for other in others)
    assert cache.get("key") == Compiled(b"cubin", {"kernel": "name"})


@pytest.mark.skipif(os.name == "nt", reason="no such modes there")
def test_who_shares_a_folder_can_read_it(tmp_path: Path) -> None:
    CubinCache(tmp_path).put("key", Compiled(b"cubin", {"kernel": "name"}))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLMBOT_CUDA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GLMBOT_CUDA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/glmbot/cuda")
