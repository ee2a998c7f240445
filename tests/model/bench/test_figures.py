"""What a step costs, how near a figure comes to its limit, and how many times as fast it is."""

from __future__ import annotations

import pytest

from model.bench.figures import Costs, Figure, Reached, Work, ratio
from model.bench.probe import Limits

COSTS = Costs(layers=2, layer_bytes=100, layer_macs=160, head_bytes=50, head_macs=40, kv_bytes=3)


def test_a_step_reads_weights_once_and_each_sequence_of_the_batch() -> None:
    assert COSTS.step(1, 10) == Work(2 * 100 + 50 + 10 * 2 * 3, 2 * 160 + 40)
    assert COSTS.step(4, 10) == Work(2 * 100 + 50 + 4 * 10 * 2 * 3, 4 * (2 * 160 + 40))


def test_a_prompt_goes_through_layers_only() -> None:
    assert COSTS.prefill(8) == Work(200, 8 * 320)
    assert COSTS.with_layers(4).prefill(8) == Work(400, 8 * 640)


@pytest.mark.parametrize(("nbytes", "macs", "seconds"), [(100, 10, 10.0), (10, 100, 5.0), (0, 0, 0.0)])
def test_work_takes_as_long_as_the_slower_of_reading_and_multiplying(
    nbytes: int, macs: int, seconds: float
) -> None:
    assert Work(nbytes, macs).seconds(Limits(bandwidth=10, macs=20)) == seconds


def test_reached_goes_by_the_mean_of_both_probes() -> None:
    reached = Reached.between(Limits(8, 100), Limits(12, 300), [Work(100, 400), Work(0, 400)], seconds=20)
    assert reached.of_bandwidth == pytest.approx(100 / 20 / 10)
    assert reached.of_dot == pytest.approx(800 / 20 / 200)
    assert reached.of_limit == pytest.approx((10 + 2) / 20)
    assert reached.macs == 40


def test_the_limit_is_the_one_that_is_nearer() -> None:
    figure = Figure("glmbot", "decode", "tok/s", [3.0, 1.0, 2.0])
    assert (figure.middle, figure.limit, figure.of_limit, figure.bandwidth) == (2.0, "", None, None)
    for after in (20, 40, 60):
        work = Work(100, 10)
        figure.reached.append(Reached.between(Limits(20, 1000), Limits(after, 1000), [work], 10))
    assert figure.limit == "bandwidth"
    assert figure.of_limit == pytest.approx(10 / 30)
    assert figure.bandwidth == (20, 40)
    figure.reached = [Reached.between(Limits(20, 1), Limits(20, 1), [Work(1, 100)], 200)]
    assert figure.limit == "dot peak"
    told = figure.to_dict()
    assert (told["min"], told["median"], told["max"]) == (1.0, 2.0, 3.0)
    assert told["reached"][0]["of_dot"] == pytest.approx(0.5)


def test_a_ratio_is_that_of_neighbours_and_above_1_where_ours_is_better() -> None:
    rates = [Figure(who, "decode", "tok/s", values) for who, values in (("a", [2, 8, 6]), ("b", [1, 2, 3]))]
    assert ratio(*rates) == 2
    times = [Figure(who, "first", "s", values) for who, values in (("a", [1.0, 2.0]), ("b", [3.0, 6.0]))]
    assert ratio(*times) == 3
