"""The benchmarks still run: one small cell of each that reaches into the bot; its figures are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def run(name: str, *arguments: str) -> Any:
    """What a benchmark prints on its last line."""
    program = [sys.executable, str(HERE / name), *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["command", "keyword", "regex"])
def test_a_routed_message(kind: str) -> None:
    assert run("bench_router.py", "glmbot", kind, "3", "0.01")["messages"] > 0


def test_a_full_turn() -> None:
    assert run("bench_router.py", "full-turn", "command", "3", "0.01")["messages"] > 0


def test_distinct_users() -> None:
    assert [sample["users"] for sample in run("bench_start.py", "--only-users", "1000")] == [500, 1000]
