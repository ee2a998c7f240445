"""The network against vectors of the published model, run in float32 on a small random one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm

import model
from model import ModelError
from model.chatglm import ChatGLM
from model.kernels import rotary
from model.kv_cache import KVCache, OutOfPages, Storage
from model.reading import Rotary, Split

VECTORS = Path(__file__).parents[1] / "data" / "chatglm"
CASES = load_file(VECTORS / "cases.safetensors")
SINGLE = ("gmask", "gmask_prefilled", "mask", "mask_and_gmask", "multi_special", "no_context", "long")
BATCHED = ("batch_leftpad", "batch_mask_tokenizer_positions")


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def network() -> ChatGLM:
    return model.load(VECTORS, device="cpu", quantization="none", dtype="float32").network


def ids_of(case: str) -> list[list[int]]:
    """The ids of each row, without the padding on the left."""
    rows = CASES[f"{case}/input_ids"]
    blocked = CASES[f"{case}/attention_mask"][:, 0, -1]
    return [row[~pads].tolist() for row, pads in zip(rows, blocked, strict=True)]


def splits_of(network: ChatGLM, case: str) -> list[Split]:
    """The rows as the network takes them; positions are those of the case."""
    splits = [network.split(ids) for ids in ids_of(case)]
    positions = CASES[f"{case}/position_ids"][:, 0, -1].tolist()
    return [replace(split, mask_position=place) for split, place in zip(splits, positions, strict=True)]


def new_caches(network: ChatGLM, count: int) -> list[KVCache]:
    pages = network.new_pages(40, "float32")
    return [KVCache(pages) for _ in range(count)]


def decode_all(network: ChatGLM, case: str, splits: Sequence[Split]) -> None:
    """Compare every cached step of a case, and that each token was the likeliest."""
    caches = new_caches(network, len(splits))
    network.prefill(splits, caches)
    logits = network.extend([split.answer for split in splits], caches)
    tokens, steps = CASES[f"{case}/greedy_tokens"], CASES[f"{case}/step_logits"]
    for step in range(tokens.shape[1]):
        assert logits.argmax(-1).tolist() == tokens[:, step].tolist()
        logits = network.decode(tokens[:, step].tolist(), caches)
        close(logits, steps[:, step])


@pytest.mark.parametrize("case", SINGLE)
def test_one_pass_gives_the_published_logits_of_every_token(network: ChatGLM, case: str) -> None:
    [ids] = ids_of(case)
    logits = network.logits(ids)
    expected = CASES[f"{case}/logits"][0]
    assert logits.shape == (len(ids), network.config.vocab_size)
    close(logits[-len(expected) :], expected)


@pytest.mark.parametrize("case", [*SINGLE, *BATCHED])
def test_cached_steps_give_the_published_logits_and_tokens(network: ChatGLM, case: str) -> None:
    decode_all(network, case, splits_of(network, case))


@pytest.mark.parametrize("case", BATCHED)
def test_rows_of_a_padded_batch_give_the_same_logits_without_padding(network: ChatGLM, case: str) -> None:
    expected = CASES[f"{case}/logits"]
    splits = splits_of(network, case)
    caches = new_caches(network, len(splits))
    network.prefill(splits, caches)
    close(network.extend([split.answer for split in splits], caches), expected[:, -1])


@pytest.mark.parametrize("case", SINGLE)
def test_the_mask_token_and_sop_give_the_published_positions(network: ChatGLM, case: str) -> None:
    [ids] = ids_of(case)
    split = network.split(ids)
    context, answer = len(split.context), len(split.answer)
    expected = CASES[f"{case}/position_ids"][0]
    assert [*range(context), *[split.mask_position] * answer] == expected[0].tolist()
    assert [*[0] * context, *range(1, answer + 1)] == expected[1].tolist()


def test_layers_give_the_published_hidden_states_keys_values_and_attentions(network: ChatGLM) -> None:
    [ids] = ids_of("gmask")
    positions = [tuple(place) for place in CASES["gmask/position_ids"][0].T.tolist()]
    blocked = CASES["gmask/attention_mask"][0, 0]

    def attend(layer: int, qkv: Tensor, tables: Rotary) -> Tensor:
        query, key, value = rotary.split_and_rotate(qkv, network.config.num_attention_heads, *tables)
        close(key, CASES[f"gmask/past.{layer}.key"][:, 0])
        close(value, CASES[f"gmask/past.{layer}.value"][:, 0])
        scores = torch.einsum("qhd,khd->hqk", query, key) / network.config.head_size**0.5
        weights = scores.masked_fill(blocked, -torch.inf).softmax(-1)
        close(weights, CASES[f"gmask/attentions.{layer}"].view_as(weights))
        return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)

    def normalised(layer: int) -> Tensor:
        """The published input of a layer, as it comes out of the layer's first norm."""
        norm = network.weights.blocks[layer].input_layernorm
        states = CASES[f"gmask/hidden_states.{layer}"][:, 0]
        return layer_norm(states, states.shape[-1:], norm.weight, norm.bias, 1e-5)

    close(network.embed(ids), CASES["gmask/hidden_states.0"][:, 0])
    tables = network.rotary(positions)
    a = normalised(0)
    for layer in range(network.config.num_layers - 1):
        a = network.finish(layer, a, attend(layer, network.project(layer, a), tables))
        close(a, normalised(layer + 1))


def test_rotary_tables_are_the_published_ones() -> None:
    tables = load_file(VECTORS / "rope.safetensors")
    frequencies = rotary.frequencies(64)
    assert frequencies.half().equal(tables["inv_freq_fp16"])
    for mode, dtype, off in (("fp32", torch.float32, 1e-6), ("fp16", torch.float16, 1e-3)):
        cos, sin = rotary.tables(tables["positions"][:, None], frequencies, dtype)
        for name, table in (("cos", cos), ("sin", sin)):
            expected = tables[f"{mode}_mode/{name}"]
            assert table.equal(table.to(dtype))
            torch.testing.assert_close(table[:, 0].repeat(1, 2), expected.float(), atol=off, rtol=0)


def test_unequal_prompts_in_one_batch_answer_as_each_does_alone(network: ChatGLM) -> None:
    rows = [ids for case in ("gmask", "long", "mask", "gmask_prefilled") for ids in ids_of(case)]
    caches = new_caches(network, len(rows))
    together = network.begin(rows, caches)
    for ids, row in zip(rows, together, strict=True):
        close(row, network.begin([ids], new_caches(network, 1))[0])
    for ids, row in zip(rows, network.decode([7, 8, 9, 10], caches), strict=True):
        alone = new_caches(network, 1)
        network.begin([ids], alone)
        close(row, network.decode([7 + rows.index(ids)], alone)[0])


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The root mean square of the difference, as a share of the logits' deviation."""
    deviation = theirs - theirs.mean(-1, keepdim=True)
    return float((ours - theirs).norm() / deviation.norm())


@pytest.mark.parametrize(("storage", "off"), [("float16", 1e-3), ("int8", 0.01), ("int4", 0.12)])
@pytest.mark.parametrize("case", SINGLE)
def test_keys_and_values_in_fewer_bits_stay_near_the_published_logits(
    network: ChatGLM, case: str, storage: Storage, off: float
) -> None:
    """As docs/model.md has it."""
    [ids], tokens = ids_of(case), CASES[f"{case}/greedy_tokens"][0].tolist()
    cache = KVCache(network.new_pages(20, storage))
    network.begin([ids], [cache])
    logits = torch.cat([network.decode([token], [cache]) for token in tokens])
    assert 0 < relative(logits, CASES[f"{case}/step_logits"][0]) < off


def test_a_prompt_that_is_given_up_leaves_no_trace(network: ChatGLM) -> None:
    [ids], [other] = ids_of("gmask"), ids_of("mask")
    [cache] = new_caches(network, 1)
    network.reading([network.split(other)], [cache]).step()
    assert cache.length == 0
    close(network.begin([ids], [cache]), network.begin([ids], new_caches(network, 1)))


def test_a_batch_without_room_is_refused_before_anything_is_read(network: ChatGLM) -> None:
    [ids] = ids_of("gmask")  # 13 tokens
    pages = network.new_pages(3, "float32")
    caches = [KVCache(pages) for _ in range(3)]
    network.begin([ids] * 3, caches)
    before = [(cache.length, cache.answered) for cache in caches]
    with pytest.raises(OutOfPages, match="KV cache is full"):
        network.extend([[7] * 4] * 3, caches)
    assert [(cache.length, cache.answered) for cache in caches] == before
    caches.pop().close()
    logits = network.extend([[7] * 4] * 1, caches[:1])
    [alone] = new_caches(network, 1)
    network.begin([ids], [alone])
    close(logits, network.extend([[7] * 4], [alone]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_come_near_the_exact_logits(network: ChatGLM, dtype: torch.dtype) -> None:
    [ids] = ids_of("gmask")
    exact = network.logits(ids)
    name = "float16" if dtype == torch.float16 else "bfloat16"
    halves = model.load(VECTORS, device="cpu", quantization="none", dtype=name).network
    assert halves.dtype == dtype
    difference = (halves.logits(ids) - exact).abs().mean()
    assert 0 < difference < (0.05 if dtype == torch.float16 else 0.4)  # the logits' deviation is about 8


def test_ids_without_sop_or_mask_are_refused(network: ChatGLM) -> None:
    config = network.config
    for ids in ([1, 2, config.gmask_token_id], [1, 2, config.bos_token_id], []):
        with pytest.raises(ModelError, match="<sop>") as caught:
            network.logits(ids)
        assert caught.value.remedy


def test_ids_outside_the_vocabulary_are_refused(network: ChatGLM) -> None:
    config = network.config
    for token in (-1, config.vocab_size):
        with pytest.raises(ModelError, match="outside the vocabulary"):
            network.logits([token, config.gmask_token_id, config.bos_token_id])
