"""Sampling: the published order of steps, and what each setting promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from structlog.testing import capture_logs
from torch import Tensor

from model.sampling import Sampler, apply_repetition_penalty, guard, probabilities
from model.types import GenerationParams, ModelError

EXPECTED = load_file(Path(__file__).parents[1] / "data" / "chatglm" / "sampling.safetensors")
# halves, so that equal logits are common
ROWS = st.lists(st.integers(-12, 12), min_size=1, max_size=40).map(lambda row: torch.tensor(row) / 2)
TEMPERATURES = st.sampled_from([0.3, 1.0, 1.7])
SHARES = st.sampled_from([0.05, 0.33, 0.61, 0.97, 1.0])


def plain(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """One row, each step written down as the specification words it, over the whole vocabulary."""
    scores = logits.double() / temperature
    if top_k:
        kth = scores.sort(descending=True).values[min(top_k, len(scores)) - 1]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if top_p < 1:
        ordered, order = scores.sort(stable=True)
        total = ordered.softmax(-1).cumsum(-1)
        scores[order[:-1][total[:-1] <= 1 - top_p]] = float("-inf")
    return scores.softmax(-1).float()


def near_a_border(row: Tensor, setting: tuple[float, int, float]) -> bool:
    """Whether rounding decides which token is the last to stay."""
    temperature, top_k, top_p = setting
    total = plain(row, temperature, top_k, 1.0).double().sort().values.cumsum(-1)
    return bool(torch.any((total - (1 - top_p)).abs() < 1e-6))


def draw(params: GenerationParams, logits: Tensor, count: int) -> list[int]:
    sampler = Sampler(params)
    return [sampler.next(logits) for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "setting"),
    [("chat_default", (0.95, 50, 0.7)), ("t0.5_k0_p0.9", (0.5, 0, 0.9)), ("t1_k10_p1", (1.0, 10, 1.0))],
)
def test_the_distribution_is_the_published_models(name: str, setting: tuple[float, int, float]) -> None:
    torch.testing.assert_close(
        probabilities(EXPECTED["logits"], *setting), EXPECTED[f"{name}/probs"], atol=1e-6, rtol=1e-5
    )


def test_broken_logits_become_blank_as_in_the_published_model() -> None:
    logits = EXPECTED["logits"].clone()
    logits[tuple(EXPECTED["invalid/logits_in_nan_at_row_col"])] = float("nan")
    assert torch.equal(guard(logits), EXPECTED["invalid/scores_out"])
    assert guard(EXPECTED["logits"]) is EXPECTED["logits"]


@pytest.mark.parametrize("broken", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("temperature", [0.0, 0.95])
def test_a_sequence_with_broken_logits_gets_the_fallback(broken: str, temperature: float) -> None:
    logits = EXPECTED["logits"][0].clone()
    logits[7] = float(broken)
    params = GenerationParams(temperature=temperature)
    assert Sampler(params).next(logits) == 5
    assert Sampler(params, fallback_id=11).next(logits) == 11


def test_broken_logits_are_logged_once_a_sequence() -> None:
    broken = torch.full((8,), float("nan"))
    with capture_logs() as logs:
        sampler = Sampler(GenerationParams())
        sampler.next(torch.ones(8))
        assert not logs
        for _ in range(3):
            sampler.next(broken)
        Sampler(GenerationParams()).next(broken)
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2


@given(ROWS, TEMPERATURES, st.integers(0, 45), SHARES)
def test_short_cuts_change_nothing(row: Tensor, temperature: float, top_k: int, top_p: float) -> None:
    setting = (temperature, top_k, top_p)
    assume(not near_a_border(row, setting))
    expected = plain(row, *setting)
    torch.testing.assert_close(probabilities(row, *setting), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 2, 5])
@pytest.mark.parametrize("setting", [(1.0, 0, 0.7), (0.95, 50, 0.7), (1.3, 0, 0.95), (1.0, 40, 1.0)])
def test_short_cuts_change_nothing_in_a_large_vocabulary(
    spread: float, setting: tuple[float, int, float]
) -> None:
    row = torch.randn(20_000, generator=torch.Generator().manual_seed(7)) * spread
    result, expected = probabilities(row, *setting), plain(row, *setting)
    # between two tokens of nearly the same probability rounding decides which is the last to stay
    assert abs(int((result > 0).sum()) - int((expected > 0).sum())) <= 1
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-4)


@given(ROWS, TEMPERATURES, st.integers(0, 45), SHARES)
def test_the_result_is_a_distribution_in_the_order_of_the_logits(
    row: Tensor, temperature: float, top_k: int, top_p: float
) -> None:
    probs = probabilities(row, temperature, top_k, top_p)
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert probs[row.argmax()] > 0 or (row == row.max()).sum() > 1
    ordered = probs[row.sort(stable=True).indices]
    assert (ordered.diff() >= -1e-6).all()


@given(ROWS, st.integers(1, 45))
def test_top_k_keeps_k_and_what_equals_the_last(row: Tensor, top_k: int) -> None:
    kept = int((probabilities(row, top_k=top_k) > 0).sum())
    kth = row.sort(descending=True).values[min(top_k, len(row)) - 1]
    assert kept == int((row >= kth).sum()) >= min(top_k, len(row))


@given(ROWS)
def test_one_token_always_survives(row: Tensor) -> None:
    for top_p in (0.0, 1e-12):
        probs = probabilities(row, top_p=top_p)
        assert int((probs > 0).sum()) == 1
        assert row[probs.argmax()] == row.max()


def test_of_equal_tokens_the_later_ones_stay() -> None:
    assert probabilities(torch.zeros(4), top_p=0.5).tolist() == [0, 0, 0.5, 0.5]


def test_a_temperature_near_zero_does_not_overflow() -> None:
    assert probabilities(torch.tensor([9.0, 30.0, 2.0]), 1e-44).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_no_temperature_is_greedy_and_takes_the_lowest_of_equal_ids(temperature: float) -> None:
    logits = torch.zeros(600)
    logits[[7, 44, 599]] = 3.0
    assert draw(GenerationParams(temperature=temperature), logits, 3) == [7, 7, 7]


def test_a_seed_gives_the_same_tokens_whatever_runs_beside() -> None:
    logits = EXPECTED["logits"][2]
    params = GenerationParams(temperature=2.0, top_p=1.0, seed=2**64 + 5)
    alone = draw(params, logits, 20)
    torch.manual_seed(99)
    one, other = Sampler(params), Sampler(GenerationParams(temperature=2.0, seed=1))
    mixed = []
    for _ in range(20):
        other.next(EXPECTED["logits"][0])
        torch.rand(3)
        mixed.append(one.next(logits))
    assert mixed == alone
    assert draw(GenerationParams(temperature=2.0, top_p=1.0, seed=6), logits, 20) != alone


def test_sampling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    draw(GenerationParams(seed=1), EXPECTED["logits"][0], 5)
    draw(GenerationParams(), EXPECTED["logits"][0], 5)
    assert torch.equal(torch.rand(4), expected)


def test_without_a_seed_each_sequence_differs() -> None:
    params = GenerationParams(temperature=1.0, top_p=1.0)
    logits = torch.zeros(500)
    assert draw(params, logits, 10) != draw(params, logits, 10)


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.06, 0.04]).log()
    count = 4000
    drawn = Counter(draw(GenerationParams(temperature=1.0, top_p=0.9, seed=4), logits, count))
    assert set(drawn) == {0, 1, 2}  # 0.04 and 0.06 are dropped
    for token, share in ((0, 0.5 / 0.9), (1, 0.1 / 0.9), (2, 0.3 / 0.9)):
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(drawn[token] - count * share) < 4 * deviation


def test_ids_beyond_the_limit_are_never_drawn() -> None:
    logits = torch.zeros(10)
    logits[8] = 50
    for temperature in (0.0, 1.0):
        sampler = Sampler(GenerationParams(temperature=temperature, top_p=1.0, seed=1), limit=8)
        assert all(sampler.next(logits, [9]) < 8 for _ in range(50))


@settings(max_examples=50)
@given(ROWS, st.lists(st.integers(0, 39), max_size=12), st.sampled_from([0.5, 1.0, 1.3]))
def test_each_seen_token_is_penalised_once(row: Tensor, seen: list[int], penalty: float) -> None:
    seen = [token for token in seen if token < len(row)]
    before = row.clone()
    result = apply_repetition_penalty(row, seen, penalty)
    for token, (old, new) in enumerate(zip(before.tolist(), result.tolist(), strict=True)):
        if token in seen:
            old = old / penalty if old > 0 else old * penalty
        assert new == pytest.approx(old)
    assert torch.equal(row, before)


def test_a_penalty_moves_the_greedy_choice() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0, -1.1])
    sampler = Sampler(GenerationParams(temperature=0, repetition_penalty=1.2))
    assert sampler.next(logits, [0, 0]) == 1
    assert sampler.next(logits[2:], [0]) == 1  # negative ones sink, too


@pytest.mark.parametrize(
    "params",
    [
        GenerationParams(temperature=float("nan")),
        GenerationParams(top_p=float("nan")),
        GenerationParams(repetition_penalty=0),
    ],
)
def test_settings_that_mean_nothing_are_refused(params: GenerationParams) -> None:
    with pytest.raises(ModelError, match="set "):
        Sampler(params)


def test_a_number_that_was_looked_at_is_drawn_once() -> None:
    """A step on a card may fail and be made again, there or elsewhere."""
    params = GenerationParams(seed=7)
    looked, plain = Sampler(params), Sampler(params)
    assert looked.peek() == looked.peek() == looked.draw() == plain.draw()
    looked.peek()
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert looked.next(logits) == plain.next(logits)
    assert looked.peek() == plain.draw()
