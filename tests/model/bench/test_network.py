"""The model as it is measured: what its steps read and multiply, and that they are whole steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.bench.network import Network
from model.bench.random_weights import write
from model.bench.subject import CONTEXT
from model.chatglm import ChatGLM
from model.kv_cache import KVCache
from model.language_model import LanguageModel
from model.packed import Packed


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of all sequences before each pass that gives logits; no two sequences share a page."""
    seen: list[list[int]] = []
    extend = ChatGLM.extend

    def spied(self: ChatGLM, answers: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        pages = [page for cache in caches for page in cache.table]
        assert len(pages) == len(set(pages))
        seen.append([cache.length for cache in caches])
        logits = extend(self, answers, caches)
        assert logits.isfinite().all()
        return logits

    monkeypatch.setattr(ChatGLM, "extend", spied)
    return seen


def test_a_batch_takes_as_many_steps_as_are_asked_for(tiny: LanguageModel, lengths: list[list[int]]) -> None:
    assert Network(tiny.network, tiny.storage).decode(3, steps=4) > 0
    assert lengths == [[CONTEXT - 1 + step] * 3 for step in range(5)]  # <sop> is not timed


def test_copies_of_a_sequence_hold_the_same(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Tensor] = []
    extend = ChatGLM.extend

    def spied(self: ChatGLM, answers: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        rows.append(extend(self, answers, caches))
        return rows[-1]

    monkeypatch.setattr(ChatGLM, "extend", spied)
    Network(tiny.network, tiny.storage).decode(2, steps=1)
    assert torch.equal(rows[0][0], rows[0][1])


def test_a_prompt_is_read_before_its_first_token_is_drawn(
    tiny: LanguageModel, lengths: list[list[int]]
) -> None:
    times = Network(tiny.network, tiny.storage).prefill(40)
    assert 0 < times.read < times.first
    assert lengths == [[40]]


def test_costs_are_those_of_the_file(tiny: LanguageModel, folder: Path) -> None:
    costs, packed = Network(tiny.network, tiny.storage).costs, Packed.open(folder)
    stored = sum(packed.read(name).nbytes for name in packed.names if "layers.0." in name)
    vectors = sum(packed.read(name).nbytes for name in packed.names if "layers.0." in name and _vector(name))
    assert costs.layer_bytes >= stored - vectors
    assert costs.layer_bytes <= stored + vectors  # LayerNorms and biases are float32 in memory
    config = tiny.config
    assert costs.layers == config.num_layers
    assert costs.layer_macs == 64 * 192 + 64 * 64 + 2 * 64 * 256
    assert costs.head_macs == config.vocab_size * 64
    assert costs.kv_bytes == 2 * 64 * 2


def _vector(name: str) -> bool:
    return name.endswith(".bias") or "layernorm" in name


def test_random_weights_are_written_once(tiny: LanguageModel, folder: Path) -> None:
    packed = Packed.open(folder)
    before = packed.file.stat()
    assert write(folder, tiny.config) == packed.file
    assert packed.file.stat() == before
    assert packed.layout == "tiles16"
    assert (packed.scheme.bits, packed.scheme.group_size, packed.scheme.head_bits) == (4, 64, 8)


def test_random_weights_answer_with_something(tiny: LanguageModel) -> None:
    logits = tiny.logits([5, 6, 7, tiny.config.gmask_token_id, tiny.config.bos_token_id])
    assert logits.isfinite().all()
    assert 0.5 < logits[-1].std() < 50
