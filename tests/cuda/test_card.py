"""What only a card can show: graphs, long answers without drift, true sizes, memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import model
from model.bench.card_model import random_weights
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.convert import convert
from model.decoder import Decoder, Step
from model.kernels.cuda import open_cuda
from model.kernels.fused import Fused
from model.kernels.reference import Reference
from model.kv_cache import KVCache, Storage, page_count
from model.mma_tiles import MmaWeight
from model.quantize import dequantize, quantize_int4
from model.random_model import make_random
from model.sampling import Sampler
from model.types import GenerationParams
from model.weights import in_rows
from tests.cuda.networks import CONFIG, weights_of
from tests.cuda.test_fused import prompt

if not torch.cuda.is_available() and not os.environ.get("GLMBOT_LIST_CARD_TESTS"):
    pytest.skip("no graphics card: make bench-gpu DRY=1 lists what waits for one", allow_module_level=True)

CARD = torch.device("cuda")


def network_on_card(config: ChatGLMConfig = CONFIG) -> tuple[ChatGLM, Fused]:
    """The same weights as on the host."""
    operations = Fused(open_cuda(CARD), CARD)
    weights = weights_of("int4", lambda weight: operations.prepare(weight.to(CARD)), config)
    return ChatGLM(config, weights, operations), operations


def answers_of(
    network: ChatGLM, operations: Fused, steps: int, storage: Storage, *, graphs: bool
) -> list[list[int]]:
    """Eleven answers that come and go, by seeds."""
    pages = network.new_pages(11 * page_count(60 + steps), storage)
    operations.prepare_kernels(network.weights, storage)
    decoder = Decoder(network, operations, pages, limit=310, longest=60 + steps)
    ids = [prompt(5 * number + 1, number) for number in range(11)]
    caches = [KVCache(pages) for _ in ids]
    network.prefill([network.split(one) for one in ids], caches)
    samplers = [Sampler(GenerationParams(seed=seed, repetition_penalty=1.1), limit=310) for seed in range(11)]
    for step in range(steps):
        if not graphs:
            decoder.forget_graphs()
        at_work = range(1 + step % 11)
        tokens = decoder.step([Step(ids[i][-1], caches[i], samplers[i], ids[i]) for i in at_work])
        for i, token in zip(at_work, tokens, strict=True):
            ids[i].append(token)
    return ids


@pytest.mark.parametrize("storage", ["float16", "int8", "int4"])
def test_replayed_graphs_give_what_launches_give(storage: Storage) -> None:
    network, operations = network_on_card()
    graphs = answers_of(network, operations, 60, storage, graphs=True)
    assert graphs == answers_of(network, operations, 60, storage, graphs=False)


@pytest.mark.long
def test_ten_thousand_steps_without_drift() -> None:
    """Greedy answers of 500 tokens, twenty at once, stay with the reference's logits to the last step."""
    network, operations = network_on_card()
    reference = ChatGLM(
        CONFIG, weights_of("int4", lambda weight: in_rows(weight).to(CARD)), Reference(torch.float32)
    )
    pages = network.new_pages(20 * page_count(600), "float16")
    decoder = Decoder(network, operations, pages, limit=None, longest=600)
    ids = [prompt(10 + number, number) for number in range(20)]
    lengths = [len(one) for one in ids]
    caches = [KVCache(pages) for _ in ids]
    network.prefill([network.split(one) for one in ids], caches)
    for _ in range(500):
        steps = [
            Step(one[-1], cache, Sampler(GenerationParams(temperature=0)), one)
            for one, cache in zip(ids, caches, strict=True)
        ]
        for one, token in zip(ids, decoder.step(steps), strict=True):
            one.append(token)
    for one, length in zip(ids, lengths, strict=True):
        logits = reference.logits(one)[length - 1 : -1]
        chosen = logits.gather(1, torch.tensor(one[length:], device=CARD).unsqueeze(1)).squeeze(1)
        best = logits.max(dim=1).values
        assert ((best - chosen) < 0.05 * logits.std(dim=1)).all()  # the best, or as good to float16


def test_matrices_of_the_true_size() -> None:
    operations = Fused(open_cuda(CARD), CARD)
    for out, columns in ((12_288, 4_096), (4_096, 16_384)):
        rows = quantize_int4(torch.randn(out, columns, device=CARD), search=False)
        tiles = operations.prepare(rows)
        assert isinstance(tiles, MmaWeight)
        floats = dequantize(rows, torch.float32)
        for count in (1, 8, 17, 64, 300):
            x = torch.randn(count, columns, device=CARD).half()
            y = operations.linear(x, tiles, torch.zeros(out, device=CARD).half())
            wanted = x.float() @ floats.t()
            assert (y.float() - wanted).abs().max() < 2e-3 * wanted.abs().max()


def test_the_whole_model_fits_a_card_of_six_gigabytes() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    config = ChatGLMConfig()
    operations = Fused(open_cuda(CARD), CARD)
    network = ChatGLM(config, random_weights(config, CARD, quantized=True), operations)
    pages = network.new_pages(page_count(2048), "float16")
    decoder = Decoder(network, operations, pages, limit=None, longest=2048)
    cache, ids = KVCache(pages), [*range(100, 1000), config.gmask_token_id, config.bos_token_id]
    network.prefill([network.split(ids)], [cache])
    decoder.step([Step(ids[-1], cache, Sampler(GenerationParams()), ids)])
    taken = torch.cuda.memory_allocated() - before
    assert taken < 4.6e9
    assert torch.cuda.max_memory_allocated() - before < 5.2e9


@pytest.mark.parametrize("quantization", ["int4", "none"])
def test_loading_and_converting_on_the_card(tmp_path: Path, quantization: str) -> None:
    make_random(tmp_path / "tiny")
    file = convert(tmp_path / "tiny", tmp_path / "packed", device=CARD)
    on_cpu = model.load(tmp_path / "tiny", device="cpu", quantization=quantization, dtype="float32")  # type: ignore[arg-type]
    ids = [20, 21, 22, on_cpu.config.gmask_token_id, on_cpu.config.bos_token_id]
    wanted = on_cpu.logits(ids)
    for path in (tmp_path / "tiny", file) if quantization == "int4" else (tmp_path / "tiny",):
        on_card = model.load(path, device="cuda", quantization=quantization)  # type: ignore[arg-type]
        found = on_card.logits(ids).float().cpu()
        assert (found - wanted).norm() < 0.1 * wanted.norm()
