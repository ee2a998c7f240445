"""What int8 activations and float16 keys and values change in what networks say, up to the full size."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import model
from model.bench.random_weights import cache_folder, random_packed, write
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.kernels.library import Library
from model.kv_cache import KVCache, Storage
from model.memory import available

DISK, MEMORY = 4 << 30, 6 << 30

Record = Callable[[str, object], None]


def log_probabilities(network: ChatGLM, storage: Storage, ids: list[int], answer: list[int]) -> Tensor:
    """Of the next token after the prompt and each token of an answer, [1 + tokens, vocabulary].

    Without those that were read: the output matrix is the embedding, so that a network which was never
    trained is sure to repeat its input, and says nothing else.
    """
    cache = KVCache(network.new_pages(8, storage))
    rows = [network.begin([ids], [cache]), *(network.decode([token], [cache]) for token in answer)]
    unread = torch.ones(network.config.vocab_size, dtype=torch.bool)
    unread[ids + answer] = False
    return torch.cat(rows).double()[:, unread].log_softmax(-1)


def check_divergence(path: Path, config: ChatGLMConfig, most: float, record: Record) -> None:
    """KL divergence of the fast path from the exact one, in nats; --junitxml keeps it, and the entropy."""
    words = random.Random(0).choices(range(config.mask_token_id), k=40)
    ids, answer = [*words[:32], config.gmask_token_id, config.bos_token_id], words[32:]
    fast = log_probabilities(model.load(path, device="cpu").network, "float16", ids, answer)
    exact = log_probabilities(model.load(path, device="cpu", dtype="float32").network, "float32", ids, answer)
    likely = exact.exp()
    entropy = -(likely * exact).sum(-1).mean()
    divergence = (likely * (exact - fast)).sum(-1).mean()
    for name, nats in (("entropy", entropy), ("divergence", divergence)):
        record(f"{name} of the next token, {config.num_layers} layers, nats", float(nats))
    assert entropy > 1  # there is something to diverge from
    assert 0 < divergence <= most


def test_the_distribution_of_the_next_token_stays(
    library: Library, tmp_path: Path, record_testsuite_property: Record
) -> None:
    """Of two layers eight blocks wide; each one more adds to it."""
    config = replace(
        ChatGLMConfig(),
        vocab_size=4096,
        hidden_size=512,
        num_layers=2,
        num_attention_heads=4,
        inner_hidden_size=2048,
        bos_token_id=4004,
        eos_token_id=4005,
        mask_token_id=4000,
        gmask_token_id=4001,
    )
    check_divergence(write(tmp_path, config).parent, config, 3e-4, record_testsuite_property)


@pytest.mark.long
def test_the_distribution_of_the_next_token_stays_at_the_full_size(
    library: Library, record_testsuite_property: Record
) -> None:
    """The random head spreads logits as a trained one does."""
    folder, memory = cache_folder(), available(torch.device("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    written = any(folder.glob("random-chatglm-6b-28-layers/*.safetensors"))
    if not written and shutil.disk_usage(folder).free < DISK:
        pytest.skip("the full size needs 4 GB of disk")
    if memory is not None and memory < MEMORY:
        pytest.skip("the full size needs 6 GB of memory")
    check_divergence(random_packed(folder, 28).parent, ChatGLMConfig(), 1e-3, record_testsuite_property)
