"""What int8 activations and float16 keys and values change in the answers of a network of the full size."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import model
from model.bench.random_weights import cache_folder, random_packed
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.kernels.library import Library
from model.kv_cache import KVCache, Storage
from model.memory import available

pytestmark = pytest.mark.long

FILE, MEMORY = 4 << 30, 8 << 30


def log_probabilities(network: ChatGLM, storage: Storage, ids: list[int], answer: list[int]) -> Tensor:
    """Of the next token after the prompt and each token of an answer, [tokens, vocabulary].

    Without those that were read: the output matrix is the embedding, so that a network which was never
    trained is sure to repeat its input, and says nothing else.
    """
    cache = KVCache(network.new_pages(8, storage))
    rows = [network.begin([ids], [cache]), *(network.decode([token], [cache]) for token in answer)]
    logits = torch.cat(rows).double()
    logits[:, ids + answer] = -torch.inf
    return logits.log_softmax(-1)


def test_the_distribution_of_the_next_token_stays(library: Library) -> None:
    """KL divergence from the exact path, in nats; the random head spreads logits as a trained one does."""
    disk, memory = shutil.disk_usage(Path.home()).free, available(torch.device("cpu"))
    if disk < FILE or (memory or MEMORY) < MEMORY:
        pytest.skip("the full size needs 4 GB of disk and 8 GB of memory")
    path, config = random_packed(cache_folder(), 28).parent, ChatGLMConfig()
    words = random.Random(0).choices(range(config.mask_token_id), k=40)
    ids, answer = [*words[:32], config.gmask_token_id, config.bos_token_id], words[32:]
    fast = log_probabilities(model.load(path, device="cpu").network, "float16", ids, answer)
    exact = log_probabilities(model.load(path, device="cpu", dtype="float32").network, "float32", ids, answer)
    likely = exact.exp()
    assert -(likely * exact).nansum(-1).mean() > 1  # nats: there is something to diverge from
    divergence = (likely * (exact - fast)).nansum(-1)
    assert 0 < divergence.mean() <= 1e-3
