"""The process that a peer runs in, with stand-ins for its package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.bench.peers import KINDS, Kind, Peer, missing, peer_file
from model.language_model import LanguageModel
from model.types import ModelError

CHATGLM = next(kind for kind in KINDS if kind.name == "chatglm.cpp")
STAND_IN = """
import os, time
__version__ = "1.2.3"
print("noise that is no answer")

class _C:
    class GenerationConfig:
        def __init__(self, **options): pass

    class Pipeline:
        def __init__(self, path, most):
            assert os.path.getsize(path) > 0
            self.model = self

        def generate_next_token(self, ids, image, config, past, context):
            if len(ids) == 13:
                raise ValueError("thirteen is too many")
            assert past in (0, len(ids) - 1)
            time.sleep(0.01)
            return 7
"""
Open = Callable[[str], Peer]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python that has a chatglm_cpp."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "chatglm_cpp.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package))
    return sys.executable


def test_a_peer_is_timed_in_its_own_process(python: str, tiny: LanguageModel, tmp_path: Path) -> None:
    assert missing(CHATGLM, python) is None
    file = peer_file(CHATGLM, tmp_path, tiny.config)
    peer = Peer(CHATGLM, python, file, tiny.config, threads=1)
    try:
        assert (peer.name, peer.most, peer.version) == ("chatglm.cpp", 1, "chatglm-cpp 1.2.3")
        assert 0.03 <= peer.decode(1, 3) < 10
        times = peer.prefill(20)
        assert 0.01 <= times.read == times.first
        with pytest.raises(ModelError, match="broke off: ValueError: thirteen is too many"):
            peer.prefill(13)
        with pytest.raises(ModelError, match="broke off"):
            peer.prefill(20)
    finally:
        peer.close()


def test_a_file_is_written_once_for_each_shape(tiny: LanguageModel, tmp_path: Path) -> None:
    written: list[Path] = []

    def write(file: Path, config: object) -> Path:
        written.append(file)
        file.touch()
        return file

    kind = replace(CHATGLM, write=write)
    other = replace(tiny.config, num_layers=3)
    files = [peer_file(kind, tmp_path, config) for config in (tiny.config, other, tiny.config)]
    assert written == files[:2]
    assert files[2] == files[0]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (sys.executable, "nowhere_to_be_found cannot be imported: ModuleNotFoundError"),
        ("/no/python", "cannot be run"),
    ],
)
def test_why_a_python_cannot_run_a_peer(program: str, reason: str) -> None:
    told = missing(replace(CHATGLM, module="nowhere_to_be_found"), program)
    assert told is not None
    assert reason in told


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_peer_that_cannot_start_says_why(kind: Kind, tiny: LanguageModel, tmp_path: Path) -> None:
    if missing(kind, sys.executable) is None:
        pytest.skip("it can")
    with pytest.raises(ModelError, match=f"{kind.name} broke off: ModuleNotFoundError"):
        Peer(kind, sys.executable, tmp_path / "none", tiny.config, threads=1)
