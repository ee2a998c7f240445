"""The whole network by the native library, against vectors of the published model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import model
from model.chatglm import ChatGLM
from model.kernels.library import Library, Pool
from model.kernels.native import Native
from model.kv_cache import KVCache, Storage
from model.loading import load_weights
from model.tiles import TiledWeight

VECTORS = Path(__file__).parents[2] / "data" / "chatglm"
CASES = load_file(VECTORS / "cases.safetensors")
SINGLE = ("gmask", "gmask_prefilled", "mask", "mask_and_gmask", "multi_special", "no_context", "long")

Load = Callable[..., ChatGLM]


@pytest.fixture
def load(library: Library) -> Load:
    def load_native(
        name: str, *, exact: bool, quantization: Any = "none", isa: int = 0, threads: int = 2
    ) -> ChatGLM:
        library.use(library.isas[isa])
        operations = Native(library, Pool(library, threads, spin_us=1), exact=exact)
        config, weights = load_weights(
            VECTORS / f"{name}.safetensors", quantization=quantization, prepare=operations.prepare
        )
        return ChatGLM(config, weights, operations)

    return load_native


def answer(network: ChatGLM, vectors: dict[str, Tensor], case: str, storage: Storage) -> Tensor:
    """Logits of a case before and after each of its tokens, [1 + tokens, vocab]."""
    caches = [KVCache(network.new_pages(40, storage))]
    first = network.begin([vectors[f"{case}/input_ids"][0].tolist()], caches)
    tokens = vectors[f"{case}/greedy_tokens"][0].tolist()
    return torch.cat((first, *(network.decode([token], caches) for token in tokens)))


def published(vectors: dict[str, Tensor], case: str) -> Tensor:
    return torch.cat((vectors[f"{case}/logits"][0, -1:], vectors[f"{case}/step_logits"][0]))


def check_exact(network: ChatGLM, vectors: dict[str, Tensor], case: str) -> None:
    logits = answer(network, vectors, case, "float32")
    torch.testing.assert_close(logits, published(vectors, case), atol=1e-3, rtol=1e-4)
    assert logits[:-1].argmax(-1).tolist() == vectors[f"{case}/greedy_tokens"][0].tolist()


def check_close(logits: Tensor, exact: Tensor) -> None:
    """Within 5 % in the mean, and the same likeliest tokens where they lead by more than that."""
    allowed = 0.05 * exact.square().mean().sqrt()
    assert (logits - exact).square().mean().sqrt() < allowed
    best = exact.topk(2).values
    clear = best[:, 0] - best[:, 1] > allowed
    assert clear.any()
    assert logits.argmax(-1)[clear].equal(exact.argmax(-1)[clear])


@pytest.mark.parametrize("case", SINGLE)
def test_floats_give_the_published_logits_and_tokens(load: Load, case: str) -> None:
    check_exact(load("model", exact=True), CASES, case)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("isa", [0, -1])
def test_published_integers_give_the_published_logits_and_tokens(load: Load, bits: int, isa: int) -> None:
    network = load(f"int{bits}_checkpoint", exact=True, isa=isa)
    assert isinstance(network.weights.blocks[0].dense.weight, TiledWeight)
    check_exact(network, load_file(VECTORS / f"int{bits}_expected.safetensors"), "gmask")


@pytest.mark.parametrize("bits", [4, 8])
def test_float32_is_the_exact_path_where_the_library_serves(library: Library, bits: int) -> None:
    """As `model.load` has it, from pages and in one pass."""
    vectors = load_file(VECTORS / f"int{bits}_expected.safetensors")
    loaded = model.load(VECTORS / f"int{bits}_checkpoint.safetensors", device="cpu", dtype="float32")
    assert loaded.kernels.startswith(f"native {library.isa}")
    check_exact(loaded.network, vectors, "gmask")
    logits = loaded.logits(vectors["gmask/input_ids"][0].tolist())
    torch.testing.assert_close(logits, vectors["gmask/logits"][0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_activations_in_eight_bits_stay_near_the_published_logits(
    load: Load, bits: int, storage: Storage
) -> None:
    vectors = load_file(VECTORS / f"int{bits}_expected.safetensors")
    network = load(f"int{bits}_checkpoint", exact=False)
    check_close(answer(network, vectors, "gmask", storage), published(vectors, "gmask"))


@pytest.mark.parametrize("case", SINGLE)
def test_weights_quantised_here_stay_near_the_exact_path(load: Load, case: str) -> None:
    exact = answer(load("model", exact=True, quantization="int4"), CASES, case, "float32")
    check_close(answer(load("model", exact=False, quantization="int4"), CASES, case, "float16"), exact)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int4"])
def test_every_instruction_set_and_number_of_threads_gives_the_same_logits(
    library: Library, load: Load, exact: bool, storage: Storage
) -> None:
    """And so does the same network loaded once more."""
    results = [
        answer(load("int4_checkpoint", exact=exact, isa=isa, threads=threads), CASES, "long", storage)
        for isa in range(len(library.isas))
        for threads in (1, 2, 3, 3)
    ]
    for result in results:
        assert result.equal(results[0])


def test_a_batch_of_prompts_gives_what_each_gives_alone(load: Load) -> None:
    network = load("model", exact=False, quantization="int4")
    prompts = [CASES[f"{case}/input_ids"][0].tolist() for case in ("gmask", "mask", "long")]
    pages = network.new_pages(60, "float16")
    caches = [KVCache(pages) for _ in prompts]
    together = network.begin(prompts, caches)
    tokens = together.argmax(-1).tolist()
    together = network.decode(tokens, caches)
    for number, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        cache = KVCache(pages)
        network.begin([prompt], [cache])
        assert network.decode([token], [cache])[0].equal(together[number])


@pytest.mark.parametrize("exact", [False, True])
def test_all_layers_at_once_give_what_one_operation_after_another_does(
    load: Load, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    network = load("model", exact=exact, quantization="int4")
    together = answer(network, CASES, "gmask_prefilled", "float16")
    monkeypatch.setattr(Native, "layers", lambda *_: None)
    assert answer(network, CASES, "gmask_prefilled", "float16").equal(together)
