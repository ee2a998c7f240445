"""A whole run on a tiny model, /healthz beside it, and what comes out; no time is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bot.cli import app
from model.bench.figures import Figure, Reached, Work
from model.bench.health import answer_times
from model.bench.loading import Loaded, load_once
from model.bench.plot import check_plot, plot
from model.bench.probe import Limits
from model.bench.report import Report, Target
from model.bench.run import Options, run
from model.bench.targets import HEALTH, LOAD, targets
from model.language_model import LanguageModel
from model.types import ModelError


def figure(subject: str, name: str, unit: Any, value: float, reached: float | None = None) -> Figure:
    """Of one value; reached: of the bandwidth as of the dot peak, 40 GB/s and 100 GMAC/s."""
    made = Figure(subject, name, unit, [value], intensity=2.5)
    if reached is not None:
        limits = Limits(40e9, 100e9)
        made.reached.append(Reached.between(limits, limits, [Work(40e9 * reached, 100e9 * reached)], 1))
    return made


def test_a_run_measures_everything(tiny: LanguageModel, folder: Path, tmp_path: Path) -> None:
    options = Options(
        folder, peer_python=None, repeat=1, batches=(1, 3), prompts=(16,), buffer=1 << 22, asked=3
    )
    said: list[str] = []
    report = run(options, said.append)
    assert said
    ours = [(figure.name, figure.unit) for figure in report.figures if figure.subject == "glmbot"]
    assert ours == [
        ("decode, batch 1", "tok/s"),
        ("decode, batch 3", "tok/s"),
        ("prefill, 16 tokens", "tok/s"),
        ("first token after 16", "s"),
        (LOAD, "s"),
        ("peak memory", "GB"),
        (f"{HEALTH}, median", "ms"),
        (f"{HEALTH}, p99", "ms"),
    ]
    assert all(value > 0 for figure in report.figures for value in figure.values)
    assert report.layers == (2, 2)
    assert report.targets == []  # they are ChatGLM-6B's
    assert tiny.kernels in report.title


async def test_healthz_is_asked_while_the_model_decodes(tiny: LanguageModel) -> None:
    times = await answer_times(tiny.network, tiny.storage, asked=4)
    assert len(times) == 4
    assert min(times) > 0


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"could not be loaded by itself: .*config\.json"):
        load_once(tmp_path, 16)


# -- reports ----------------------------------------------------------------------------------


def report() -> Report:
    """Of one figure with a peer's."""
    made = Report("A CPU", 2, "a model", "native", (28, 28))
    made.figures = [
        figure("machine", "read, 1 thread", "GB/s", 31.0),
        figure("glmbot", "decode, batch 1", "tok/s", 10.0, 0.9),
        figure("llama.cpp", "decode, batch 1", "tok/s", 8.0, 0.72),
        figure("glmbot", "prefill, 512 tokens", "tok/s", 1234.5, 0.5),
        figure("chatglm.cpp", "prefill, 512 tokens", "tok/s", 246.9),
        figure("glmbot", LOAD, "s", 1.5),
        figure("glmbot", f"{HEALTH}, p99", "ms", 51),
    ]
    return made


def test_a_table_has_a_line_for_each_figure() -> None:
    made = report()
    made.notes.append("something to know")
    lines = list(made.lines())
    assert lines[0] == "A CPU, 2 threads: a model, 28 layers, native"
    rows = {tuple(line.split()[:5]): line.split() for line in lines if line.startswith("decode")}
    ours = rows["decode,", "batch", "1", "glmbot", "10"]
    assert ours[3:] == ["glmbot", "10", "10", "10", "tok/s", "90", "%", "bandwidth", "40", "40"]
    theirs = rows["decode,", "batch", "1", "llama.cpp", "8"]
    assert theirs[-2:] == ["1.25", "x"]
    assert any("1,234" in line for line in lines)
    assert lines[-1] == "- something to know"


def test_figures_of_few_layers_are_labelled() -> None:
    made = report()
    made.layers = (4, 28)
    assert "SCALED to 28 layers from 4 layers" in next(made.lines())


def test_json_holds_all_of_it(tmp_path: Path) -> None:
    made = report()
    made.targets = [Target("decode", 90, ">=", 85, "%"), Target("load", 3, "<=", 2, "s")]
    made.write(tmp_path / "new" / "bench.json")
    told = json.loads((tmp_path / "new" / "bench.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["figures"]] == [one.name for one in made.figures]
    assert told["figures"][1]["of_limit"] == pytest.approx(0.9)
    assert told["ratios"][0] == {"name": "decode, batch 1", "peer": "llama.cpp", "ratio": 1.25}
    assert [target["met"] for target in told["targets"]] == [True, False]
    assert told["machine"]["cpu"] == "A CPU"


def test_what_is_wanted_goes_by_what_was_measured() -> None:
    loads = [Loaded(1.5, peak=4_000_000_000, kv=100_000_000, file=3_500_000_000)]
    found = {target.name: (target.value, target.met) for target in targets(report(), loads)}
    assert found == {
        "decode, batch 1: of the bandwidth": (pytest.approx(90), True),
        "decode, batch 1: glmbot against llama.cpp": (1.25, True),  # at 40 GB/s 0.95 are wanted
        "prefill, 512 tokens: glmbot against chatglm.cpp": (pytest.approx(5), True),
        "prefill, 512 tokens: of the dot peak": (pytest.approx(50), False),
        "peak memory beyond file and KV cache": (400, True),
        LOAD: (1.5, True),
        f"{HEALTH}, p99": (51, False),
    }


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(report(), tmp_path / "new" / "roofline.png")
    assert (tmp_path / "new" / "roofline.png").read_bytes().startswith(b"\x89PNG")
    bare = report()
    bare.figures = [figure("glmbot", "decode, batch 1", "tok/s", 10.0)]
    with pytest.raises(ModelError, match="no roofline"):
        plot(bare, tmp_path / "none.png")


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What the command asks to be run; nothing is."""
    options: list[Options] = []

    def stand_in(given: Options, say: object) -> Report:
        options.append(given)
        return report()

    monkeypatch.setattr("model.bench.run.run", stand_in)
    return options


def test_the_command_prints_a_table_and_writes_json(asked: list[Options], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = CliRunner().invoke(app, ["model", "bench", "--quick", "--no-peers", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == list(report().lines())
    assert json.loads(file.read_text(encoding="utf-8"))["benchmark"] == "model"
    assert [(one.path, one.quick, one.peer_python) for one in asked] == [(None, True, None)]


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    asked: list[Options], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ModelError, match="needs matplotlib"):
        check_plot()
    done = CliRunner().invoke(app, ["model", "bench", "--plot", str(tmp_path / "roofline.png")])
    assert done.exit_code == 1
    assert asked == []
