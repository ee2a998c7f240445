"""Steps on a card: the same tokens as from the network's own logits and the CPU's sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from structlog.testing import capture_logs

from model.decoder import Decoder, Step
from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from model.kv_cache import KVCache, Storage
from model.runner import Answer, ChatGLMRunner, Prompt
from model.sampling import Sampler
from model.types import GenerationParams
from tests.cuda.networks import CONFIG, fused_network
from tests.cuda.test_fused import prompt
from tests.cuda.test_rope_kv import STORAGES

PARAMS = (
    GenerationParams(temperature=0),
    GenerationParams(seed=1),
    GenerationParams(seed=2, temperature=1.5, top_k=0, top_p=0.95, repetition_penalty=1.3),
    GenerationParams(seed=3, top_k=3, top_p=1, repetition_penalty=0.8),
    GenerationParams(seed=4, top_k=0, top_p=1),
)


@pytest.mark.parametrize("scheme", ["int4", "none"])
@pytest.mark.parametrize("storage", STORAGES)
def test_tokens(launcher: Launcher, scheme: str, storage: Storage) -> None:
    network = fused_network(launcher, scheme)
    operations = network.operations
    assert isinstance(operations, Fused)
    pages = network.new_pages(200, storage)
    assert Decoder.fits(network, pages)
    decoder = Decoder(network, operations, pages, limit=310, longest=600)
    lengths = (3, 300, 40, 17, 90)
    prompts = [prompt(length, length) for length in lengths]
    mine = [KVCache(pages) for _ in prompts]
    network.prefill([network.split(ids) for ids in prompts], mine)
    theirs = [cache.fork() for cache in mine]
    drawn = [Sampler(params, limit=310) for params in PARAMS]
    expected = [Sampler(params, limit=310) for params in PARAMS]
    ids = [list(ids) for ids in prompts]
    for _ in range(6):
        tokens = [one[-1] for one in ids]
        steps = [Step(*step) for step in zip(tokens, mine, drawn, ids, strict=True)]
        found = decoder.step(steps)
        logits = network.decode(tokens, theirs)
        rows = zip(expected, logits, ids, strict=True)
        assert found == [sampler.next(row, seen) for sampler, row, seen in rows]
        for one, token in zip(ids, found, strict=True):
            one.append(token)


def test_more_answers_with_penalties_than_a_step_takes(launcher: Launcher) -> None:
    """Those that were not in a step for longest give up their place, and find their tokens again."""
    network = fused_network(launcher, config=replace(CONFIG, num_layers=1))
    operations = network.operations
    assert isinstance(operations, Fused)
    pages = network.new_pages(400, "float16")
    decoder = Decoder(network, operations, pages, limit=None, longest=100)
    params = GenerationParams(temperature=0, repetition_penalty=5)
    ids = [prompt(4, seed) for seed in range(70)]
    caches = [KVCache(pages) for _ in ids]
    network.prefill([network.split(one) for one in ids], caches)
    for _ in range(3):
        for batch in (range(40), range(30, 70)):
            steps = [Step(ids[i][-1], caches[i], Sampler(params), ids[i]) for i in batch]
            forks = [caches[i].fork() for i in batch]
            logits = network.decode([step.token for step in steps], forks)
            wanted = [Sampler(params).next(row, ids[i]) for row, i in zip(logits, batch, strict=True)]
            assert decoder.step(steps) == wanted
            for i, token, fork in zip(batch, wanted, forks, strict=True):
                ids[i].append(token)
                fork.close()


def test_broken_logits_give_the_blank(launcher: Launcher) -> None:
    network = fused_network(launcher)
    network.weights.final_layernorm.weight.fill_(float("nan"))
    operations = network.operations
    assert isinstance(operations, Fused)
    pages = network.new_pages(4, "float16")
    decoder = Decoder(network, operations, pages, limit=None, longest=100)
    cache, ids = KVCache(pages), prompt(5, 0)
    network.prefill([network.split(ids)], [cache])
    sampler = Sampler(GenerationParams())
    with capture_logs() as logs:
        for _ in range(2):
            assert decoder.step([Step(CONFIG.bos_token_id, cache, sampler, ids)]) == [5]
    assert [line["event"] for line in logs] == ["logits are not finite: are the weights damaged?"]


def test_what_kernels_do_not_take(launcher: Launcher) -> None:
    network = fused_network(launcher)
    assert not Decoder.fits(network, network.new_pages(1, "float32"))
    assert torch.float16 == network.dtype


def decoder_and_steps(launcher: Launcher, params: Sequence[GenerationParams]) -> tuple[Decoder, list[Step]]:
    """A decoder, and the first step of an answer for each of them; their prompts have been read."""
    network = fused_network(launcher, config=replace(CONFIG, num_layers=1))
    operations = network.operations
    assert isinstance(operations, Fused)
    pages = network.new_pages(200, "float16")
    decoder = Decoder(network, operations, pages, limit=310, longest=100)
    ids = [prompt(4 + number, number) for number in range(len(params))]
    caches = [KVCache(pages) for _ in ids]
    network.prefill([network.split(one) for one in ids], caches)
    rows = zip(ids, caches, params, strict=True)
    return decoder, [Step(one[-1], cache, Sampler(own, limit=310), one) for one, cache, own in rows]


@pytest.mark.parametrize("fails", ["_run", "_fill"])
def test_a_step_that_failed_can_be_made_again(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """By halves too, as the engine does it: the same tokens come as if nothing had happened."""
    params = [GenerationParams(seed=seed, top_k=0, top_p=1, repetition_penalty=9) for seed in range(4)]
    decoder, steps = decoder_and_steps(launcher, params)
    again, same = decoder_and_steps(launcher, params)
    done = getattr(again, fails)

    def run(*arguments: object) -> object:
        done(*arguments)
        raise torch.OutOfMemoryError

    for _ in range(3):
        wanted = decoder.step(steps)
        with monkeypatch.context() as patch:
            patch.setattr(again, fails, run)
            with pytest.raises(torch.OutOfMemoryError):
                again.step(same)
        assert again.step(same[:2]) + again.step(same[2:]) == wanted
        for some in (steps, same):
            for number, token in enumerate(wanted):
                some[number].ids.append(token)  # type: ignore[attr-defined]
                some[number] = replace(some[number], token=token)


def test_two_answers_of_a_step_never_share_bits(launcher: Launcher) -> None:
    """Though one of them, not in a step for longest, was given a token elsewhere in the meantime."""
    params = [GenerationParams(temperature=0, repetition_penalty=5)] * 65
    decoder, steps = decoder_and_steps(launcher, params)
    token, *_ = decoder.step(steps[:64])
    steps[0].ids.extend([token, 7])  # type: ignore[attr-defined]
    decoder.step([steps[0], steps[64]])
    slots = decoder._inputs.parameters["slot"][:2]
    assert slots[0] != slots[1]


def test_what_cannot_be_captured_is_launched(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for a graph: the step itself was made, and those after it are made too."""
    decoder, steps = decoder_and_steps(launcher, [GenerationParams(seed=1)])
    tries = list[int]()

    def capture(size: int, longest: int) -> None:
        tries.append(size)
        raise torch.OutOfMemoryError("no room for a graph")

    monkeypatch.setattr(decoder, "_captures", True)
    monkeypatch.setattr(decoder, "_capture", capture)
    with capture_logs() as logs:
        for _ in range(3):
            decoder.step(steps)
    assert tries == [1]
    assert [line["log_level"] for line in logs] == ["warning"]
    decoder.forget_graphs()
    decoder.step(steps)
    assert tries == [1, 1]


def test_memory_of_graphs_is_given_up_where_there_is_too_little(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ChatGLMRunner(fused_network(launcher), pages=8, storage="float16")
    decoder = runner._decoder
    assert decoder is not None
    given_up = list[bool]()
    monkeypatch.setattr(decoder, "forget_graphs", lambda: given_up.append(True))
    runner.forget()
    assert given_up


def test_positions_on_one_axis(launcher: Launcher) -> None:
    network = fused_network(launcher, config=replace(CONFIG, num_layers=1, position_encoding_2d=False))
    operations = network.operations
    assert isinstance(operations, Fused)
    pages = network.new_pages(20, "float16")
    decoder = Decoder(network, operations, pages, limit=310, longest=100)
    cache, ids = KVCache(pages), prompt(30, 0)
    network.prefill([network.split(ids)], [cache])
    fork, greedy = cache.fork(), GenerationParams(temperature=0)
    for _ in range(3):
        logits = network.decode([ids[-1]], [fork])[0]
        found = decoder.step([Step(ids[-1], cache, Sampler(greedy, limit=310), ids)])
        assert found == [Sampler(greedy, limit=310).next(logits, ids)]
        ids += found


def test_one_that_no_step_takes_leaves_the_others_as_they_are(launcher: Launcher) -> None:
    """An answer that has several tokens to be read makes a batch go the way of other devices, once."""
    runner = ChatGLMRunner(fused_network(launcher), pages=60, storage="float16")
    params = [GenerationParams(seed=seed, top_k=0, top_p=1, repetition_penalty=2) for seed in range(3)]

    def opened(number: int, begun: Sequence[int] = ()) -> Answer:
        ids = (*prompt(5 * number + 4, number), *begun)
        answer, _ = runner.open(Prompt(ids, 20, params[number]))
        reading = runner.reading([answer])
        while not reading.step():
            pass
        return answer

    alone = [opened(0), opened(1)]
    wanted = [runner.decode(alone) for _ in range(5)]
    beside = [opened(0), opened(1)]
    found = [runner.decode(beside) for _ in range(2)]
    begun = opened(2, (40, 41, 42))
    found += [runner.decode([begun, *beside])[1:] for _ in range(3)]
    assert found == wanted
