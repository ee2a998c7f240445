"""The arithmetic of many users, and the whole measurement on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import model
from model.bench import engine
from model.bench.crowd import Heard, jain, percentile, rate, rounds_waited, windows
from model.random_model import make_random


def test_jains_index() -> None:
    assert jain([3, 3, 3]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 1


def test_percentiles_are_values_that_were_there() -> None:
    values = list(range(100, 0, -1))
    assert (percentile(values, 0.99), percentile(values, 0.5), percentile([7.0], 0.99)) == (99, 50, 7)


def test_windows_begin_after_the_first_and_are_whole() -> None:
    times = [(user, second) for second in range(95) for user in "ab"]
    times += [("a", second + 0.5) for second in range(30, 60)]
    assert windows(times, "ab", 30) == [pytest.approx(jain([60, 30])), 1]
    assert windows([], "ab", 30) == []
    assert windows(times, "abc", 30)[1] == pytest.approx(2 / 3)


def test_the_rate_is_that_of_the_time_when_all_were_answered() -> None:
    heard = [Heard("a", 0, (1, 2, 3, 4, 5)), Heard("b", 0, (2.5, 3.5, 4.5))]
    assert rate(heard) == pytest.approx(4 / 2)


def test_waits_are_told_in_rounds() -> None:
    heard = [Heard("a", 0, (1, 2)), Heard("b", 0, (3, 4))]
    assert rounds_waited(heard) == 0.75


async def test_everything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_random(tmp_path / "tiny")
    for name, value in {"STUB_STEPS": 50, "PAGES": 256, "LONG": 100, "BATCHES": (2,), "USERS": 4}.items():
        monkeypatch.setattr(engine, name, value)
    monkeypatch.setattr(engine, "STEADY", 0.2)
    found = await engine.measure(model.load(tmp_path / "tiny", device="cpu"), 0, lambda text: None)
    answered = next(one for one in found.targets if one.name.endswith(": answered"))
    assert answered.value == 4
    found.write(tmp_path / "engine.json")
    assert json.loads((tmp_path / "engine.json").read_text())["benchmark"] == "engine"
    assert "wanted" in found.lines()[2]
