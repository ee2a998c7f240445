"""The kernel that draws the next tokens, against `Sampler` on the CPU and float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.sample import ROW, SHARED, THREADS, parameters
from model.sampling import TOP_K, Sampler, apply_repetition_penalty, candidates, guard
from model.types import GenerationParams
from tests.cuda.emulator import Emulator

NEAR = 2e-6
"""How far, as a share of all probability, float32 may move a border between tokens."""
FALLBACK = 5
PLAIN = GenerationParams(temperature=1.0, top_p=1.0, top_k=0)

SETTINGS = st.builds(
    GenerationParams,
    temperature=st.sampled_from([-1.0, 0.0, 1e-44, 1e-30, 0.3, 0.95, 1.0, 1.7, 1e4]),
    top_k=st.sampled_from([None, 0, 1, 3, 30, 200, 2000]),
    top_p=st.sampled_from([0.0, 0.05, 0.33, 0.5, 0.7, 0.97, 1.0, 1.5]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    seed=st.integers(0, 2**32),
)


@st.composite
def rows_of_logits(draw: st.DrawFn) -> Tensor:
    """A row of one of the shapes that matter to thresholds, sometimes broken."""
    size = draw(st.sampled_from([40, 1000, 2052]))
    normal = torch.randn(size, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    peak = normal * 0.1 + 8 * torch.arange(size).eq(
        size // 3
    )  # less likely than what is far below it together
    shapes = [
        normal * 0.1,
        normal * 3,
        normal * 12,
        (normal * 3).round() / 2,
        peak,
        normal * 0,
        normal * 1e37 - 1e38,
    ]
    row = draw(st.sampled_from(shapes))
    if draw(st.integers(0, 5)) == 0:
        row[draw(st.integers(0, size - 1))] = draw(
            st.sampled_from([float("nan"), float("inf"), -float("inf")])
        )
    return row


@dataclass
class Batch:
    """Rows of logits [rows, V] and what becomes of them in one launch."""

    logits: Tensor
    settings: Sequence[GenerationParams]
    drawn: Sequence[float]
    slots: Sequence[int] = ()
    seen: Tensor | None = None
    limit: int | None = None
    threads: int = THREADS
    broken: Sequence[bool] = ()

    def run(self, emulator: Emulator) -> list[int]:
        rows, vocabulary = self.logits.shape
        numbers = np.zeros(rows, ROW)
        slots = self.slots or [-1] * rows
        for i, (params, drawn) in enumerate(zip(self.settings, self.drawn, strict=True)):
            numbers[i] = parameters(params, drawn, slots[i])
        tokens = torch.full((rows,), -1, dtype=torch.int32)
        seen = bits(vocabulary) if self.seen is None else self.seen
        limit = vocabulary if self.limit is None else self.limit
        emulator.launch(
            "sample",
            (rows, 1, 1),
            self.threads,
            *(self.logits, torch.from_numpy(numbers.view(np.int32)).clone(), seen, tokens),
            *(vocabulary, limit, FALLBACK),
            shared=SHARED,
        )
        self.broken = [token < 0 for token in tokens.tolist()]
        return [~token if token < 0 else token for token in tokens.tolist()]


def bits(vocabulary: int, *seen: Sequence[int]) -> Tensor:
    """A row of bits for each sequence of tokens, as the kernel keeps them."""
    result = np.zeros((max(len(seen), 1), -(-vocabulary // 32)), np.uint32)
    for row, tokens in zip(result, seen, strict=False):
        for token in tokens:
            row[token // 32] |= np.uint32(1 << token % 32)
    return torch.from_numpy(result.view(np.int32)).clone()


def on_cpu(row: Tensor, params: GenerationParams, seen: Sequence[int] = (), limit: int | None = None) -> int:
    return Sampler(params, fallback_id=FALLBACK, limit=limit).next(row, seen)


def kept(scores: Tensor, params: GenerationParams, dropped: float) -> Tensor:
    """Probabilities of float64 as the specification words them, of tokens that go 0."""
    scores = (scores.double() - scores.max()) / params.temperature
    top_k = TOP_K if params.top_k is None else params.top_k
    if 0 < top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], float("-inf"))
    ordered, order = scores.sort(stable=True)
    if params.top_p < 1:
        scores[order[:-1][ordered.softmax(-1).cumsum(-1)[:-1] <= dropped]] = float("-inf")
    return scores.softmax(-1)


def may_be(token: int, scores: Tensor, params: GenerationParams, drawn: float) -> bool:
    """Whether the draw, or one at most NEAR to it where borders may be NEAR to where they are, is `token`."""
    for shift in (-NEAR, 0, NEAR):
        probs = kept(scores, params, 1 - params.top_p + shift)
        upto = float(probs[: token + 1].sum())
        if probs[token] > 0 and upto - float(probs[token]) - NEAR <= drawn <= upto + NEAR:
            return True
    return False


@settings(max_examples=250)
@given(rows_of_logits(), SETTINGS, st.data())
def test_the_token_is_that_of_the_cpu(
    emulator: Emulator, row: Tensor, params: GenerationParams, data: st.DataObject
) -> None:
    size = len(row)
    seen = data.draw(st.lists(st.integers(0, size - 1), max_size=20))
    limit = data.draw(st.sampled_from([size, size - 3, size // 2 + 1]))
    drawn = Sampler(params).draw()
    batch = Batch(row[None], [params], [drawn], [0], bits(size, seen), limit, threads=64)
    (token,) = batch.run(emulator)
    if token != on_cpu(row, params, seen, limit):
        scores = guard(apply_repetition_penalty(row, seen, params.repetition_penalty)[:limit], FALLBACK)
        assert params.temperature > 0
        assert may_be(token, scores, params, drawn)


def various(count: int) -> list[GenerationParams]:
    """What people set, each with a seed of its own."""
    return [
        GenerationParams(
            temperature=(0.95, 0.5, 1.3, 0.0)[i % 4],
            top_k=(None, 0, 5, 0, 1500)[i % 5],
            top_p=(0.7, 1.0, 0.9)[i % 3],
            repetition_penalty=(1.0, 1.1)[i // 2 % 2],
            seed=i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("vocabulary", "limit", "rows"), [(5004, 5003, 24), (130528, 130344, 6)])
def test_rows_of_one_launch_have_their_own_settings(
    emulator: Emulator, vocabulary: int, limit: int, rows: int
) -> None:
    torch.manual_seed(rows)
    logits = torch.randn(rows, vocabulary) * 2.5
    each = various(rows)
    seen = [torch.randint(limit, (30,)).tolist() + [int(row[:limit].argmax())] * 2 for row in logits]
    drawn = [Sampler(params).draw() for params in each]
    slots = list(range(rows))[::-1]
    batch = Batch(logits, each, drawn, slots, bits(vocabulary, *seen[::-1]), limit)
    expected = [on_cpu(*row, limit) for row in zip(logits, each, seen, strict=True)]
    assert batch.run(emulator) == expected


@pytest.mark.parametrize("threads", [32, 256, THREADS])
def test_the_order_in_which_threads_run_changes_nothing(emulator: Emulator, threads: int) -> None:
    torch.manual_seed(threads)
    logits = torch.cat([torch.randn(3, 5004) * 2, torch.randn(3, 5004).round() / 2, torch.zeros(2, 5004)])
    each = various(len(logits))
    batch = Batch(logits, each, [Sampler(params).draw() for params in each], threads=threads)
    tokens = [batch.run(replace(emulator, order=order)) for order in (0, 1, 5)]
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize(
    ("params", "passes"),
    [
        (replace(PLAIN, temperature=0.0), 1),
        (GenerationParams(), 2),
        (GenerationParams(top_k=0), 3),
        (PLAIN, 3),
    ],
)
def test_rows_are_read_seldom(emulator: Emulator, params: GenerationParams, passes: int) -> None:
    row = torch.randn(1, 65536, generator=torch.Generator().manual_seed(0)) * 5
    with emulator.counted() as counts:
        Batch(row, [params], [0.5]).run(emulator)
    assert counts["sample"].loaded <= passes * row.nbytes * 1.1


def sweep(emulator: Emulator, row: Tensor, params: GenerationParams, count: int, **other: Any) -> list[int]:
    """The tokens of `count` draws that are evenly spread."""
    drawn = [(i + 0.5) / count for i in range(count)]
    return Batch(row.repeat(count, 1), [params] * count, drawn, threads=32, **other).run(emulator)


@pytest.mark.parametrize(
    "params",
    [PLAIN, replace(PLAIN, top_p=0.8), replace(PLAIN, top_k=4), GenerationParams(top_k=6, top_p=0.9)],
)
def test_tokens_come_as_often_as_their_probability_says(emulator: Emulator, params: GenerationParams) -> None:
    row = torch.randn(40, generator=torch.Generator().manual_seed(2)) * 2
    tokens = torch.tensor(sweep(emulator, row, params, 400))
    assert tokens.diff().min() >= 0
    ids, probs = candidates(row, params.temperature, params.top_k or 0, params.top_p)
    shares = torch.zeros(40).index_put((ids,), probs)
    assert (tokens.bincount(minlength=40) - 400 * shares).abs().max() < 1


def test_a_draw_on_the_border_between_two_tokens_takes_the_later(emulator: Emulator) -> None:
    tokens = [0, 1, 127, 128, 255, 256, 384, 511]
    batch = Batch(torch.zeros(8, 512), [PLAIN] * 8, [token / 512 for token in tokens], threads=64)
    assert batch.run(emulator) == tokens


@pytest.mark.parametrize("count", [4, 12, 20])
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.8, 0.9])
def test_of_equal_tokens_the_later_ones_stay(emulator: Emulator, count: int, top_p: float) -> None:
    row = torch.full((40,), -100.0)
    row[3 : 3 + count] = 1.0
    gone = min(int((1 - Fraction(str(top_p))) * count), count - 1)
    expected = range(3 + gone, 3 + count)
    assert set(sweep(emulator, row, replace(PLAIN, top_p=top_p), 60)) == set(expected)


@pytest.mark.parametrize("top_p", [0.5, 0.9])
def test_unlikely_tokens_stay_where_they_are_many(emulator: Emulator, top_p: float) -> None:
    row = torch.zeros(2052)
    row[7] = 8
    params = replace(PLAIN, top_p=top_p)
    tokens = sweep(emulator, row, params, 20)
    assert (len(set(tokens)) > 5) == (top_p == 0.9)
    assert all(may_be(token, row, params, (i + 0.5) / 20) for i, token in enumerate(tokens))


def test_ties_with_the_last_of_top_k_stay(emulator: Emulator) -> None:
    row = torch.zeros(40)
    row[[4, 9]], row[[1, 20, 39]] = 2.0, 1.0
    assert set(sweep(emulator, row, replace(PLAIN, top_k=3), 60)) == {1, 4, 9, 20, 39}


def test_greedy_takes_the_lowest_of_equal_ids(emulator: Emulator) -> None:
    logits = torch.full((3, 1000), -2.0)
    logits[0, [7, 44, 999]] = 3.0
    logits[1, [600, 20]] = torch.tensor([0.0, -0.0])
    greedy = replace(PLAIN, temperature=0.0)
    assert Batch(logits, [greedy] * 3, [0.9] * 3, threads=128).run(emulator) == [7, 20, 0]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_broken_logits_become_the_fallback_in_their_row_alone(emulator: Emulator, broken: float) -> None:
    logits = torch.zeros(3, 1000)
    logits[:, 8] = 50
    logits[1, 700] = logits[2, 996] = broken  # the last one only where padding is
    for temperature in (0.0, 1.0):
        each = [replace(PLAIN, temperature=temperature)] * 3
        batch = Batch(logits, each, [0.5] * 3, limit=990, threads=64)
        assert batch.run(emulator) == [8, FALLBACK, 8]
        assert batch.broken == [False, True, False]  # for who keeps the log


def test_ids_beyond_the_limit_are_never_drawn(emulator: Emulator) -> None:
    row = torch.zeros(40)
    row[30:] = 50
    assert set(sweep(emulator, row, PLAIN, 60, limit=30)) == set(range(30))


def test_rows_that_pad_a_batch_touch_nothing(emulator: Emulator) -> None:
    seen = bits(40, [], [3])
    numbers = np.zeros(2, ROW)
    numbers[1] = parameters(PLAIN, 0.5, 1)
    numbers[1]["active"] = 0
    tokens, before = torch.full((2,), -1, dtype=torch.int32), seen.clone()
    row = torch.from_numpy(numbers.view(np.int32)).clone()
    arguments = torch.full((2, 40), float("nan")), row, seen, tokens, 40, 40, FALLBACK
    emulator.launch("sample", (2, 1, 1), 32, *arguments, shared=SHARED)
    assert tokens.tolist() == [0, 0]
    assert torch.equal(seen, before)


def test_drawn_tokens_are_seen_from_then_on(emulator: Emulator) -> None:
    """Greedy with a penalty: each token sinks once it was drawn, and no more by being drawn again."""
    logits = torch.full((2, 1000), -9.0)
    logits[:, [31, 32, 800]] = torch.tensor([4.0, 3.9, 3.8])
    params = replace(PLAIN, temperature=0.0, repetition_penalty=1.25)
    seen = bits(1000, [], [], [])
    batch = Batch(logits, [params] * 2, [0.0] * 2, [2, -1], seen, threads=64)
    assert [batch.run(emulator) for _ in range(4)] == [[31, 31], [32, 31], [800, 31], [31, 31]]
    assert torch.equal(seen, bits(1000, [], [], [31, 32, 800]))


def test_tokens_are_seen_whether_or_not_there_is_a_penalty(emulator: Emulator) -> None:
    seen = bits(1000, [1])
    (token,) = Batch(torch.zeros(1, 1000), [PLAIN], [0.5], [0], seen, threads=64).run(emulator)
    assert torch.equal(seen, bits(1000, [1, token]))


def test_a_sequence_of_one_seed_is_the_same_here_and_there(emulator: Emulator) -> None:
    torch.manual_seed(0)
    params = GenerationParams(repetition_penalty=1.2, seed=2**64 + 5)
    here, there = Sampler(params), Sampler(params)
    told, seen = [1, 2, 3, 3], bits(1000, [1, 2, 3])
    for _ in range(12):
        row = torch.randn(1, 1000) * 2
        expected = there.next(row[0], told)
        assert Batch(row, [params], [here.draw()], [0], seen, threads=64).run(emulator) == [expected]
        told.append(expected)


def test_parameters_of_any_size_fit_their_words() -> None:
    rows = np.zeros(2, ROW)
    rows[0] = parameters(GenerationParams(1, 1e300, -1e300, 10**12, 1e300), 1 - 2**-53)
    rows[1] = parameters(GenerationParams(1, -1e300, 1e300, -(10**12)), 0.0)
    assert rows["top_k"].tolist() == [2**31 - 1, 0]
    assert rows["dropped"].tolist() == [1, 0]
    assert rows["temperature"][0] > 1e38
    assert rows["temperature"][1] <= 0
    assert rows["drawn"].tolist() == [2**64 - 2**11, 0]
