"""Files of tensors that are damaged, cut short or hold code: each is told as what it is, and nothing runs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from model.tensor_file import TensorFile, weight_files
from model.types import ModelError

STATE = {"norm.weight": torch.ones(7).half(), "dense.weight": torch.arange(90_000.0).view(300, 300)}
PROTOCOLS = range(6)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def saved(state: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def refused(file: Path) -> str:
    """The problem of a file that does not open; the error names it and a remedy."""
    with pytest.raises(ModelError) as caught:
        TensorFile(file)
    assert caught.value.file == file
    assert caught.value.remedy
    return caught.value.problem


@pytest.mark.parametrize("kept", [2, 7, 100, 1_000, 5_000, -100, -1])
def test_an_archive_that_is_cut_short_says_at_how_many_bytes(kept: int, file: Path) -> None:
    file.write_bytes(saved(STATE)[:kept])
    assert refused(file) == f"is cut short ({file.stat().st_size} bytes)"


@pytest.mark.parametrize("kept", [7, 100, 250, 300, 350, 1_000, 5_000, -100, -1])
def test_a_file_from_before_2020_that_is_cut_short_is_not_taken_for_code(kept: int, file: Path) -> None:
    file.write_bytes(saved(STATE, _use_new_zipfile_serialization=False)[:kept])
    assert refused(file) == f"is damaged or cut short ({file.stat().st_size} bytes)"


def test_an_empty_file(file: Path) -> None:
    file.touch()
    assert refused(file) == "is empty"


@pytest.mark.parametrize("place", [100, 300])
def test_an_archive_with_a_wrong_byte(place: int, file: Path) -> None:
    data = bytearray(saved(STATE))
    data[place] ^= 0xFF
    file.write_bytes(data)
    assert refused(file) == "is damaged"


@pytest.mark.parametrize("content", [b"<html>404</html>", b"c", b"cos\nmkd", bytes(300)])
def test_what_is_no_pickle(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert refused(file) == "is no file of tensors"


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_is_told_in_every_protocol_and_not_run(protocol: int, as_zip: bool, file: Path) -> None:
    """Before 2020 the code came in the fourth of five pickles."""
    marker = file.with_name("ran")
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": as_zip}
    file.write_bytes(saved(STATE | {"x": Evil(marker)}, **options))
    assert "holds code" in refused(file)
    assert not marker.exists()


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_alone_are_never_taken_for_code(protocol: int, as_zip: bool, file: Path) -> None:
    """Though torch reads protocols 2 and 3 only."""
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": as_zip}
    file.write_bytes(saved(STATE, **options))
    if protocol in (2, 3):
        assert TensorFile(file).tensors.keys() == STATE.keys()
    else:
        assert "code" not in refused(file)


@pytest.mark.parametrize("content", ['{"weight_map": {}}', "[" * 100_000], ids=["empty", "deep"])
def test_an_index_of_nothing_or_without_an_end(content: str, tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(content, "utf-8")
    with pytest.raises(ModelError) as caught:
        weight_files(tmp_path)
    assert caught.value.file == index
    assert len(str(caught.value)) < 300


def test_an_index_names_its_shards_in_order(tmp_path: Path) -> None:
    for name in ("b.bin", "a.bin"):
        (tmp_path / name).touch()
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.bin", "y": "a.bin", "z": "b.bin"}}), "utf-8")
    assert weight_files(tmp_path) == (tmp_path / "a.bin", tmp_path / "b.bin")
