"""A bot that is told to stop while its model still loads: it ends soon, in order, whatever torch is at."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.bot_process import small_config

SOON = 15.0
"""Seconds; it takes a tenth of a second on an idle machine, waiting for the model would take for ever."""
ENDLESS = """
def create(settings):
    import torch

    numbers = torch.ones(64, 64)
    (settings.path / "begun").touch()
    while True:
        numbers = numbers @ numbers / 64
"""


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a backend that computes for ever; returns a file that is there once it has begun."""
    pytest.importorskip("torch", reason="needs the extra [model]")
    packages = tmp_path / "packages"
    information = packages / "endless-1.0.dist-info"
    information.mkdir(parents=True)
    (packages / "endless.py").write_text(ENDLESS, "utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: endless\nVersion: 1.0\n", "utf-8")
    (information / "entry_points.txt").write_text("[glmbot.models]\nlocal = endless:create\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # else the current folder comes first, which may be a checkout
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "begun"


@pytest.mark.parametrize(("command", "number"), [("run", signal.SIGTERM), ("chat", signal.SIGINT)])
def test_a_signal_ends_a_bot_that_loads_its_model(
    tmp_path: Path, begun: Path, command: str, number: signal.Signals
) -> None:
    config = small_config(model={"path": str(tmp_path)}, server={"port": 0})
    (tmp_path / "config.yaml").write_text(json.dumps(config), "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", "from bot.cli import main; main()", command],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        has_begun(begun, process)
        process.send_signal(number)
        told = time.monotonic()
        _, log = process.communicate(timeout=60)
        assert time.monotonic() - told < SOON
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert (tmp_path / "bot.db").exists()
    assert not (tmp_path / "bot.db-wal").exists()  # the last connection is closed


def has_begun(begun: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the file is there, which the process writes."""
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
