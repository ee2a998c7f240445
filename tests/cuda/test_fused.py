"""Whole networks by the kernels, against the reference over the same weights in float32."""

from __future__ import annotations

import pytest
import torch

from model.kernels.launcher import Launcher
from model.kv_cache import KVCache, Storage
from tests.cuda.networks import CONFIG, QUANTIZERS, fused_network, reference_network
from tests.cuda.test_rope_kv import STORAGES


def prompt(length: int, seed: int) -> list[int]:
    drawn = torch.randint(20, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [*drawn, CONFIG.gmask_token_id, CONFIG.bos_token_id]


@pytest.mark.parametrize("scheme", QUANTIZERS)
@pytest.mark.parametrize("storage", STORAGES)
def test_logits_of_prompts_and_answers(launcher: Launcher, scheme: str, storage: Storage) -> None:
    mine, exact = fused_network(launcher, scheme), reference_network(scheme)
    prompts, answers = [prompt(9, 1), prompt(150, 2), prompt(30, 3)], ([7, 8, 9], [10, 11, 12], [300, 5, 6])
    caches = [KVCache(mine.new_pages(15, storage)) for _ in prompts[:1]]
    caches += [KVCache(caches[0].pages) for _ in prompts[1:]]
    found = [mine.begin(prompts, caches)] + [
        mine.decode(tokens, caches) for tokens in zip(*answers, strict=True)
    ]
    for number, (ids, answer) in enumerate(zip(prompts, answers, strict=True)):
        wanted = exact.logits([*ids, *answer])[-len(answer) - 1 :]
        distance = (torch.stack([logits[number] for logits in found]) - wanted).norm() / wanted.norm()
        assert distance < (0.12 if storage == "int4" else 0.02)


def test_a_long_prompt_goes_through_whole_matrices(launcher: Launcher) -> None:
    mine, exact, ids = fused_network(launcher), reference_network(), prompt(300, 4)
    cache = KVCache(mine.new_pages(24, "float16"))
    logits = mine.begin([ids], [cache])
    wanted = exact.logits(ids)[-1]
    assert (logits[0] - wanted).norm() < 0.02 * wanted.norm()


def test_logits_of_an_answer_do_not_hang_on_the_batch(launcher: Launcher) -> None:
    network = fused_network(launcher)
    pages = network.new_pages(60, "int8")
    caches = [KVCache(pages) for _ in range(11)]
    network.begin([prompt(5 * number + 1, number) for number in range(11)], caches)
    alone = caches[3].fork()
    together = network.decode(list(range(30, 41)), caches)
    assert torch.equal(network.decode([33], [alone])[0], together[3])
