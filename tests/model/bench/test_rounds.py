"""The order of measurements, and what becomes of the seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from model.bench.figures import Costs
from model.bench.probe import Limits, Probe
from model.bench.rounds import Rounds
from model.bench.subject import PromptTimes

COSTS = Costs(layers=2, layer_bytes=100, layer_macs=100, head_bytes=100, head_macs=100, kv_bytes=0)


@dataclass
class Subject:
    """Takes a second for everything, and writes down what it is asked for."""

    name: str
    diary: list[str]
    most: int = 64
    costs: Costs = COSTS

    def decode(self, batch: int, steps: int) -> float:
        self.diary.append(self.name)
        return float(steps)

    def prefill(self, tokens: int) -> PromptTimes:
        self.diary.append(self.name)
        return PromptTimes(1.0, 2.0)

    def close(self) -> None: ...


@dataclass
class Machine:
    """Reads 600 bytes and multiplies 10,000 numbers a second."""

    diary: list[str] = field(default_factory=list)

    def limits(self) -> Limits:
        self.diary.append("probe")
        return Limits(600, 10_000)


def rounds(
    machine: Machine | None, *subjects: Subject, repeat: int = 2, layers: int = COSTS.layers
) -> Rounds:
    return Rounds(subjects, cast("Probe | None", machine), repeat=repeat, layers=layers)


def test_subjects_take_turns_with_a_probe_before_and_after_each() -> None:
    machine = Machine()
    ours, theirs = Subject("glmbot", machine.diary), Subject("peer", machine.diary)
    figures = rounds(machine, ours, theirs).decode(4)
    assert machine.diary == ["probe", *["glmbot", "probe", "peer", "probe"] * 2]
    assert [(figure.subject, figure.name, figure.values) for figure in figures] == [
        ("glmbot", "decode, batch 4", [4.0, 4.0]),
        ("peer", "decode, batch 4", [4.0, 4.0]),
    ]
    assert figures[0].of_limit == pytest.approx(300 / 600)


def test_who_cannot_take_the_batch_is_left_out() -> None:
    diary: list[str] = []
    figures = rounds(None, Subject("glmbot", diary), Subject("peer", diary, most=1)).decode(8)
    assert [figure.subject for figure in figures] == ["glmbot"]
    assert diary == ["glmbot"] * 2


def test_a_prompt_gives_two_figures() -> None:
    read, first = rounds(Machine(), Subject("glmbot", [])).prefill(32)
    assert (read.name, read.unit, read.values) == ("prefill, 32 tokens", "tok/s", [32.0, 32.0])
    assert (first.name, first.unit, first.values) == ("first token after 32", "s", [2.0, 2.0])
    assert read.of_limit == pytest.approx(32 * 200 / 10_000)
    assert first.of_limit == pytest.approx((32 * 200 / 10_000 + 300 / 600) / 2)


def test_long_prompts_are_read_three_times_at_most() -> None:
    diary: list[str] = []
    read, _ = rounds(None, Subject("glmbot", diary), repeat=5).prefill(512)
    assert len(read.values) == len(diary) == 3


def test_few_layers_are_told_as_many_by_what_bounds_them() -> None:
    few, whole = (rounds(Machine(), Subject("glmbot", []), layers=layers) for layers in (2, 11))
    for measure in (lambda of: of.decode(1), lambda of: of.prefill(320)):
        told, scaled = measure(few)[0], measure(whole)[0]
        assert scaled.of_limit == told.of_limit
        grown = 11 / 2 if told.limit == "dot peak" else 1200 / 300
        assert scaled.middle == pytest.approx(told.middle / grown)


def test_without_probes_there_are_rates_only() -> None:
    [figure] = rounds(None, Subject("glmbot", []), layers=11).decode(1)
    assert figure.reached == []
    assert figure.middle == pytest.approx(300 / 1200)
