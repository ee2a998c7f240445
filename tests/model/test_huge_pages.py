"""Weights get huge pages where the system has them, and a clear rule says when they are copied there."""

from __future__ import annotations

import mmap
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from model import huge_pages
from model.huge_pages import MappedFile
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


# -- mapped files ---------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path: Path) -> MappedFile:
    """Of 5 MiB and a bit: the numbers 0 to 255 again and again."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * (5 * (1 << 20) // 256) + b"the end")
    return MappedFile(tmp_path / "file")


def test_mapped_tensors_are_views_that_outlive_file_and_mapping(mapped: MappedFile) -> None:
    assert mapped[1:4] == b"\1\2\3"
    assert len(mapped) == 5 * (1 << 20) + 7
    tensor = mapped.tensor(256, (2, 3), torch.int16)
    assert tensor.tolist() == [[0x0100, 0x0302, 0x0504], [0x0706, 0x0908, 0x0B0A]]
    assert tensor.data_ptr() == mapped.tensor(0, (512,), torch.uint8).data_ptr() + 256
    mapped.file.unlink()
    del mapped
    assert tensor[1, 2] == 0x0B0A


def test_a_tensor_past_the_end_is_refused(mapped: MappedFile) -> None:
    with pytest.raises(ValueError, match="buffer"):
        mapped.tensor(len(mapped) - 7, (2,), torch.float32)


@LINUX
def test_populate_brings_the_file_into_memory(mapped: MappedFile) -> None:
    address = mapped.tensor(0, (1,), torch.uint8).data_ptr()
    assert 0 <= mapped.populate() <= 1
    assert smaps(address)["Rss"] * 1024 >= len(mapped)
    assert mapped[-7:] == b"the end"


@LINUX
@pytest.mark.parametrize(("huge", "readings"), [(0, 1), (2048, 2), (4600, 1)])
def test_what_lies_in_small_pages_is_read_once_more_where_huge_ones_can_be(
    mapped: MappedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: int, readings: int
) -> None:
    """With a table of the system's that says so, whatever this system can do."""
    address = mapped.tensor(0, (1,), torch.uint8).data_ptr()
    table = tmp_path / "smaps"
    table.write_text(
        f"{address - 8192:x}-{address:x} rw-p 0 0:0 1   /another\nRss:  9000 kB\nFilePmdMapped:  9000 kB\n"
        f"{address:x}-{address + len(mapped):x} rw-p 0 0:0 2   /file\nRss:      5000 kB\n"
        f"FilePmdMapped:     {huge} kB\nVmFlags: rd wr\n"
    )
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: dropped.append(1))
    monkeypatch.setattr(huge_pages, "_SMAPS", table)
    assert mapped.populate() == huge / 5000
    assert len(dropped) == readings - 1
    assert mapped[:3] == b"\0\1\2"


@LINUX
def test_forgotten_pages_count_no_more_and_come_back(mapped: MappedFile) -> None:
    """Only those that the part fills: its neighbours share the outer ones."""
    page = mmap.PAGESIZE
    whole = mapped.tensor(0, (len(mapped),), torch.uint8)
    before = whole.clone()
    mapped.forget(0, len(mapped))
    mapped.forget(page // 2, page)  # fills none
    resident = smaps(whole.data_ptr())["Rss"] * 1024
    assert resident <= page
    assert torch.equal(whole, before)


# -- the rule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("huge", "there", "free", "copied"),
    [
        (0.95, True, 1200, False),
        (0.5, True, 1200, True),
        (0.0, True, 1200, True),
        (0.5, True, 1050, False),
        (0.5, True, None, False),
        (0.0, False, 5000, False),
    ],
)
def test_weights_are_copied_where_that_brings_huge_pages_and_there_is_room(
    monkeypatch: pytest.MonkeyPatch, huge: float, there: bool, free: int | None, copied: bool
) -> None:
    monkeypatch.setattr(huge_pages, "available", lambda: there)
    assert huge_pages.choose(lambda: huge, 1000, free)[0] == copied
    for asked in ("mapped", "copied"):
        monkeypatch.setenv(huge_pages.VARIABLE, asked)
        assert huge_pages.choose(lambda: huge, 1000, free) == (
            asked == "copied",
            "GLMBOT_CPU_WEIGHTS says so",
        )


def test_unknown_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(huge_pages.VARIABLE, "huge")
    with pytest.raises(ModelError, match="GLMBOT_CPU_WEIGHTS is 'huge'") as caught:
        huge_pages.choose(lambda: 0.0, 1000, 5000)
    assert "mapped or copied" in str(caught.value.remedy)
