"""Weights get huge pages where the system has them, and a clear rule says when they are copied there."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest
import torch

from model import huge_pages
from model.types import ModelError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc and huge pages are Linux's")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)


def smaps(address: int) -> dict[str, int]:
    """Of the mapping that holds an address: KiB by name."""
    inside = False
    found: dict[str, int] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and (row := re.match(r"(\w+): +(\d+) kB", line)):
            found[row[1]] = int(row[2])
    return found


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (1100, 1000, 2)])
def test_tensors_are_like_any_other(shape: tuple[int, ...]) -> None:
    tensor = huge_pages.empty(shape, torch.float16)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, torch.float16, True)
    assert tensor.data_ptr() % 64 == 0
    assert torch.equal(tensor.fill_(2), torch.full(shape, 2, dtype=torch.float16))


@LINUX
def test_large_tensors_lie_in_huge_pages() -> None:
    if not huge_pages.available():
        pytest.skip("this system gives none")
    size = 8 * huge_pages.SIZE
    tensor = huge_pages.empty((size,), torch.uint8).fill_(1)
    assert tensor.data_ptr() % huge_pages.SIZE == 0
    counted = smaps(tensor.data_ptr())
    assert counted["Rss"] * 1024 == size  # nothing is wasted around it
    assert counted["AnonHugePages"] > 0


@LINUX
def test_system_without_huge_pages_is_told_from_one_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_ENABLED", tmp_path / "enabled")
    assert not huge_pages.available()
    for text, there in (
        ("always madvise [never]\n", False),
        ("always [madvise] never\n", True),
        ("[always] madvise never\n", True),
    ):
        (tmp_path / "enabled").write_text(text)
        assert huge_pages.available() == there


@pytest.mark.parametrize(
    ("there", "free", "copied"),
    [(True, 1200, True), (True, 1050, False), (True, None, False), (False, 5000, False)],
)
def test_weights_are_copied_where_there_are_huge_pages_and_room(
    monkeypatch: pytest.MonkeyPatch, there: bool, free: int | None, copied: bool
) -> None:
    monkeypatch.setattr(huge_pages, "available", lambda: there)
    assert huge_pages.choose(1000, free)[0] == copied
    for asked in ("mapped", "copied"):
        monkeypatch.setenv(huge_pages.VARIABLE, asked)
        assert huge_pages.choose(1000, free) == (asked == "copied", "GLMBOT_CPU_WEIGHTS says so")


def test_unknown_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(huge_pages.VARIABLE, "huge")
    with pytest.raises(ModelError, match="GLMBOT_CPU_WEIGHTS is 'huge'") as caught:
        huge_pages.choose(1000, 5000)
    assert "mapped or copied" in str(caught.value.remedy)


@LINUX
def test_forgotten_pages_of_a_file_count_no_more_and_come_back(tmp_path: Path) -> None:
    """Only those that the tensor fills: its neighbours share the outer ones."""
    page = mmap.PAGESIZE
    (tmp_path / "file").write_bytes(bytes(range(256)) * (64 * page // 256))
    with (tmp_path / "file").open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    whole = torch.frombuffer(mapped, dtype=torch.uint8)
    before = whole.clone()
    part = whole[page // 2 : 60 * page + page // 2]
    huge_pages.forget(part)
    assert smaps(whole.data_ptr())["Rss"] * 1024 == 5 * page
    huge_pages.forget(part[:10])
    assert torch.equal(whole, before)
