"""The operations of the network, each against its formula written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import rotary
from model.kernels.reference import Reference, attend
from model.kv_cache import KVBatch, KVCache, KVPages, Storage
from model.quantize import QuantizedWeight, dequantize, quantize_int4, quantize_int8
from model.weights import Norm

REFERENCE = Reference(torch.float32)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantised(weight: Tensor, bits: int, group: int) -> QuantizedWeight:
    return quantize_int4(weight, group) if bits == 4 else quantize_int8(weight)


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(1, 5),
    out=st.integers(1, 70),
    columns=st.integers(1, 200),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([32, 64, 128]),
)
def test_a_quantised_matrix_of_any_shape_multiplies_as_its_floats(
    tokens: int, out: int, columns: int, bits: int, group: int
) -> None:
    x, weight = noise(tokens, columns), quantised(noise(out, columns, seed=1), bits, group)
    bias = noise(out, seed=2)
    expected = x.double() @ dequantize(weight).double().T + bias
    torch.testing.assert_close(REFERENCE.linear(x, weight, bias).double(), expected, atol=1e-4, rtol=1e-5)


def test_a_matrix_of_more_rows_than_a_block_is_multiplied_whole() -> None:
    x, weight = noise(2, 1_024), quantize_int4(noise(700, 1_024, seed=1))
    expected = x @ dequantize(weight).T
    torch.testing.assert_close(REFERENCE.linear(x, weight), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("computed", FLOATS)
def test_floats_are_kept_as_stored_and_computed_as_asked(stored: torch.dtype, computed: torch.dtype) -> None:
    x, weight = noise(3, 64).to(computed), noise(50, 64, seed=1).to(stored)
    y = REFERENCE.linear(x, weight)
    assert y.dtype == computed
    exact = x.double() @ weight.to(computed).double().T
    torch.testing.assert_close(y.double(), exact, atol=1e-4 if computed == torch.float32 else 0.3, rtol=1e-2)


def test_gradients_reach_through_a_quantised_matrix() -> None:
    weight = quantize_int4(noise(300, 96, seed=1))
    x = noise(2, 96).requires_grad_()
    REFERENCE.linear(x, weight, noise(300)).sum().backward()
    torch.testing.assert_close(x.grad, dequantize(weight).sum(0).expand(2, -1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_a_quantised_embedding_are_gathered(bits: int) -> None:
    table = quantised(noise(40, 96), bits, 64)
    ids = torch.tensor([3, 39, 3, 0])
    assert REFERENCE.embed(ids, table).equal(dequantize(table)[ids])


def test_layer_norm_uses_the_variance_of_the_population() -> None:
    x, weight, bias = noise(3, 32) * 5 + 2, noise(32, seed=1), noise(32, seed=2)
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).sum(1, keepdim=True) / 32
    expected = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    torch.testing.assert_close(REFERENCE.norm(x, Norm(weight, bias), 1e-5), expected)


def test_layer_norm_of_halves_sums_in_float32() -> None:
    x = (noise(2, 4_096) * 300).half()  # their squares do not fit into halves
    y = REFERENCE.norm(x, Norm(torch.ones(4_096).half(), torch.zeros(4_096).half()), 1e-5)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float().std(1, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_gelu_has_the_tanh_form() -> None:
    z = torch.linspace(-6, 6, 101)
    expected = 0.5 * z * (1 + torch.tanh(0.7978845608028654 * z * (1 + 0.044715 * z * z)))
    y = REFERENCE.linear(z.unsqueeze(1), torch.ones(1, 1), gelu=True)
    torch.testing.assert_close(y.squeeze(1), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 2])
def test_rotation_turns_pairs_of_each_part_by_its_own_position(axes: int) -> None:
    size, heads = 16, 3
    part = size // axes
    positions = torch.tensor([[5, 2], [0, 9]])[:, :axes]
    frequencies = rotary.frequencies(part)
    x = noise(2, heads, size)
    turned = rotary.rotate(x, *rotary.tables(positions, frequencies))
    for token in range(2):
        for axis in range(axes):
            for pair in range(part // 2):
                angle = float(positions[token, axis] * frequencies[pair])
                u, w = x[token, :, axis * part + pair], x[token, :, axis * part + part // 2 + pair]
                cos, sin = math.cos(angle), math.sin(angle)
                first = turned[token, :, axis * part + pair]
                second = turned[token, :, axis * part + part // 2 + pair]
                torch.testing.assert_close(first, u * cos - w * sin, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(second, w * cos + u * sin, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("new", "total", "causal"), [(4, 9, False), (4, 9, True), (1, 6, True), (5, 5, True)]
)
def test_attention_is_the_weighted_mean_of_what_may_be_seen(new: int, total: int, causal: bool) -> None:
    query, key, value = noise(new, 2, 8), noise(2, total, 8, seed=1), noise(2, total, 8, seed=2)
    context = attend(query, key, value, causal=causal).view(new, 2, 8)
    for token in range(new):
        seen = total - new + token + 1 if causal else total
        for head in range(2):
            weights = (key[head, :seen] @ query[token, head] / math.sqrt(8)).softmax(0)
            expected = weights @ value[head, :seen]
            torch.testing.assert_close(context[token, head], expected, atol=1e-5, rtol=1e-4)


HEADS, SIZE = 3, 16


def pages_of(storage: Storage, device: torch.device) -> KVPages:
    return KVPages(12, layers=2, heads=HEADS, head_size=SIZE, storage=storage, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int4"])
def test_what_rope_kv_writes_is_what_attention_sees(storage: Storage, device: str) -> None:
    """Sequences with a past of 0, 20 and 40 tokens get 18, 1 and 0 more; each sees its own, up to itself."""
    place = torch.device(device)
    pages, past, new = pages_of(storage, place), (0, 20, 40), (18, 1, 0)
    caches = [KVCache(pages) for _ in past]
    frequencies = rotary.frequencies(SIZE // 2, place)
    stored: list[list[Tensor]] = [[] for _ in past]
    for lengths in (past, new):
        batch = KVBatch(caches, lengths)
        qkv = noise(sum(lengths), HEADS * 3 * SIZE, seed=sum(lengths)).to(place)
        positions = torch.arange(2 * sum(lengths), device=place).view(-1, 2)
        query, key, value = REFERENCE.rope_kv(
            qkv, *rotary.tables(positions, frequencies), pages, batch.slots, 1
        )
        assert value.equal(qkv.view(-1, HEADS, 3, SIZE)[:, :, 2])
        for together, k, v in zip(stored, key.split(lengths), value.split(lengths), strict=True):
            together.append(torch.stack((k, v)))
        context = REFERENCE.attention(query, batch, 1).view(-1, HEADS, SIZE)
        batch.commit()
    off = {"float32": 1e-5, "float16": 2e-3, "int8": 0.02, "int4": 0.3}[storage]
    rows = zip(query, context, strict=True)
    for parts, before, more in zip(stored, past, new, strict=True):
        keys, values = torch.cat(parts, dim=1)
        for token in range(more):
            q, found = next(rows)
            seen = before + token + 1
            scores = torch.einsum("hd,khd->hk", q, keys[:seen]) / math.sqrt(SIZE)
            expected = torch.einsum("hk,khd->hd", scores.softmax(-1), values[:seen])
            torch.testing.assert_close(found, expected, atol=off, rtol=1e-4)
    assert next(rows, None) is None


@pytest.mark.parametrize("device", DEVICES)
def test_a_layer_of_pages_holds_nothing_of_another(device: str) -> None:
    pages = pages_of("float32", torch.device(device))
    cache = KVCache(pages)
    batch = KVBatch([cache], [3])
    ones = torch.ones(3, HEADS, SIZE, device=device)
    for layer in (0, 1):
        pages.write(layer, batch.slots, ones, ones * layer)
    for layer in (0, 1):
        context = REFERENCE.attention(ones, batch, layer)
        torch.testing.assert_close(context, torch.full_like(context, layer))


def test_a_context_sees_itself_as_a_whole() -> None:
    query, key, value = noise(4, HEADS, SIZE), noise(9, HEADS, SIZE, seed=1), noise(9, HEADS, SIZE, seed=2)
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(SIZE)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
    torch.testing.assert_close(REFERENCE.context_attention(query, key, value), expected)


def test_the_residual_is_weighted_and_normalised() -> None:
    x, y, norm = noise(3, 32), noise(3, 32, seed=1), Norm(noise(32, seed=2), noise(32, seed=3))
    expected = REFERENCE.norm(7.5 * x + y, norm, 1e-5)
    torch.testing.assert_close(REFERENCE.residual_norm(x, y, 7.5, norm, 1e-5), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [4, 8])
def test_matrices_are_multiplied_where_they_lie(bits: int, device: str) -> None:
    weight, place = quantised(noise(90, 64, seed=1), bits, 32), torch.device(device)
    x, ids = noise(3, 64), torch.tensor([5, 89])
    y = REFERENCE.linear(x.to(place), weight.to(place), noise(90).to(place), gelu=True)
    torch.testing.assert_close(
        y.cpu(), REFERENCE.linear(x, weight, noise(90), gelu=True), atol=1e-4, rtol=1e-4
    )
    rows = REFERENCE.embed(ids.to(place), weight.to(place))
    assert rows.cpu().equal(REFERENCE.embed(ids, weight))
