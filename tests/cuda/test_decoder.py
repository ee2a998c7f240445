"""Steps on a card: the same tokens as from the network's own logits and the CPU's sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from model.decoder import Decoder, Step
from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from model.kv_cache import KVCache, Storage
from model.sampling import Sampler
from model.types import GenerationParams
from tests.cuda.emulator import Emulator
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


@pytest.mark.parametrize("temperature", [0.0, 40.0])
def test_a_step_that_failed_draws_the_same_when_it_is_made_again(
    emulator: Emulator, temperature: float
) -> None:
    """The kernel that draws has run, and what comes after it fails: in a seed's answer nothing is skipped."""

    class Fails(Emulator):
        at: int | None = None

        def launch(self, kernel: str, *arguments: Any, **options: Any) -> None:
            super().launch(kernel, *arguments, **options)
            if kernel == "sample" and self.at is not None:
                self.at -= 1
                if self.at == 0:
                    raise RuntimeError("out of memory")

    def answer(at: int | None) -> list[int]:
        launcher = Fails(emulator.folder, sources=emulator.sources, flags=emulator.flags)
        launcher.at = at
        network = fused_network(launcher)
        operations = network.operations
        assert isinstance(operations, Fused)
        pages = network.new_pages(4, "int8")
        decoder = Decoder(network, operations, pages, limit=None, longest=100)
        cache, ids = KVCache(pages), prompt(5, 0)
        sampler = Sampler(
            GenerationParams(seed=5, temperature=temperature, top_k=0, top_p=1, repetition_penalty=4)
        )
        network.prefill([network.split(ids)], [cache])
        for _ in range(8):
            step = Step(ids[-1], cache, sampler, ids)
            try:
                ids += decoder.step([step])
            except RuntimeError:
                ids += decoder.step([step])
        return ids

    assert answer(3) == answer(None)
    assert len(set(answer(None))) > 8
