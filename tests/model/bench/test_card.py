"""The benchmark of graphics cards, tried on the host that plays one: all of it runs, small and once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model.bench.card import Findings, measure, planned
from model.bench.card_kernels import SHAPES, Cell, Scale, once
from model.bench.card_model import SUBJECTS, Plan, Rate, Subject
from model.cli import app
from model.types import ModelError
from tests.cuda.emulator import COMPILER, Emulator
from tests.cuda.instances import usual
from tests.cuda.networks import CONFIG

SMALL = Scale({"small": (128, 256)}, 320, 2, (1, 16), (1, 2), (40, 300), 1 << 16)
PLAN = Plan((1, 2), 40, 3, (150,))


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Findings:
    if COMPILER is None:
        pytest.skip("no g++: kernels cannot run on the host")
    emulator = Emulator(Path(request.config.cache.mkdir("simt")))
    emulator.prepare(usual())
    result = Findings("a card", "13.0")
    said = list[str]()
    measure(
        result, emulator, torch.device("cpu"), once, said.append, scale=SMALL,
        config=replace(CONFIG, num_layers=1), plan=PLAN,
    )  # fmt: skip
    assert len(said) == len(result.cells) + len(result.rates) + len(result.too_large)
    return result


def test_everything_is_measured_and_told(found: Findings, tmp_path: Path) -> None:
    assert len(found.cells) == 2 + 2 + 3 * 2 * 2 + 1
    assert all(cell.seconds > 0 for cell in found.cells)
    assert [(rate.subject, rate.name) for rate in found.rates] == [
        (subject, name) for subject in SUBJECTS for name in ("batch 1 x 40", "batch 2 x 40", "prompt of 150")
    ]
    assert len(found.first_tokens) == 3
    text = "\n".join(found.lines())
    assert "ESTIMATE, not measured" in text
    found.write(tmp_path / "out" / "gpu.json")
    written = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))
    assert len(written["cells"]) == len(found.cells)
    assert set(written["estimates"]) == {"RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090"}


def test_a_way_that_a_card_has_no_room_for_spoils_nothing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float16 at 6B wants more than 12 GB: smaller cards are measured too."""
    decode = Subject.decode

    def full(self: Subject, batch: int, plan: Plan) -> Rate:
        if self.name == "float16" and batch > 1:
            raise torch.OutOfMemoryError
        return decode(self, batch, plan)

    monkeypatch.setattr(Subject, "decode", full)
    found: Findings = request.getfixturevalue("found")
    assert found.too_large == ["float16"]
    assert [rate.name for rate in found.rates if rate.subject == "float16"] == ["batch 1 x 40"]
    assert {rate.subject for rate in found.rates} == set(SUBJECTS)
    assert "float16: the card has no room" in "\n".join(found.lines())


def test_targets_compare_with_the_bandwidth_and_the_original() -> None:
    found = Findings("a card", bandwidth=1e12)
    found.rates = [
        Rate(SUBJECTS[0], "batch 1 x 512", 250, 0.004, 3_000_000_000),
        Rate(SUBJECTS[0], "batch 50 x 512", 600, 0.08, 3_000_000_000),
        Rate(SUBJECTS[2], "batch 1 x 512", 25, 0.04, 3_000_000_000),
    ]
    values = [(round(target.value), target.met) for target in found.targets()]
    assert values == [(75, True), (10, True), (24, True)]
    estimate = found.estimates()["RTX 3090"]["batch 1 x 512"]
    assert estimate == pytest.approx(250 * 0.92 * 0.936)


def test_a_cell_is_met_by_share_or_by_time() -> None:
    assert Cell("a", 1e-6, 1, share=0.8, least_share=0.8).met
    assert Cell("a", 1e-6, 1, share=0.79, least_share=0.8).met is False
    assert Cell("a", 61e-6, 0, most_seconds=60e-6).met is False
    assert Cell("a", 1.0, 1, share=0.1).met is None


def test_what_waits_is_listed_without_a_card() -> None:
    listed = CliRunner().invoke(app, ["bench-gpu", "--dry"])
    assert listed.exit_code == 0
    assert listed.stdout.splitlines() == list(planned())
    for text in (*SHAPES, "head, 64 rows", "attention int4, 64 x 2048", "batch 50 x 512", "prompt of 2048"):
        assert text in listed.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_there_is_one_clear_error() -> None:
    error = CliRunner().invoke(app, ["bench-gpu"]).exception
    assert isinstance(error, ModelError)
    assert "there is no graphics card here" in str(error)
    assert "--dry" in str(error)
