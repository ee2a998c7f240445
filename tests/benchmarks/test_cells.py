"""The benchmarks still run: one small cell of each that reaches into the bot; its figures are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def printed(name: str, *arguments: str) -> str:
    """What a benchmark prints."""
    program = [sys.executable, str(HERE / name), *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run(name: str, *arguments: str) -> Any:
    """What a benchmark prints on its last line."""
    return json.loads(printed(name, *arguments).splitlines()[-1])


@pytest.mark.parametrize("kind", ["command", "keyword", "regex"])
def test_a_routed_message(kind: str) -> None:
    assert run("bench_router.py", "glmbot", kind, "3", "0.01")["messages"] > 0


def test_a_full_turn() -> None:
    assert run("bench_router.py", "full-turn", "command", "3", "0.01")["messages"] > 0


def test_distinct_users() -> None:
    assert [sample["users"] for sample in run("bench_start.py", "--only-users", "1000")] == [500, 1000]


def test_wecoms_callbacks(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    printed(
        "bench_wecom.py", "--called", "gate alone", "--seconds", "0", "--bursts", "1", "--json", str(file)
    )
    results = json.loads(file.read_text(encoding="utf-8"))
    assert [(row["acknowledged"], row["refused"]) for row in results["rows"]] == [(1000, 0), (200, 0)]
    assert [item["met"] for item in results["targets"] if "gettoken" in item["target"]] == ["yes"]


def test_formats_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    printed("quantization_table.py", "--quick", "--json", str(file))
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert rows
    for row in rows:
        assert all(value > 0 for value in row.values() if isinstance(value, float)), row
