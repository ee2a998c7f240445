"""P-Tuning v2: published prefixes load, the network attends to them, and they can be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from model.chatglm import ChatGLM
from model.checkpoint import PREFIX
from model.config import ChatGLMConfig
from model.kernels.reference import Reference
from model.kv_cache import KVCache
from model.prefix import Prefix, PrefixEncoder, load_prefix
from model.types import ModelError
from model.weights import Block, Linear, Norm, Weights

DATA = Path(__file__).parents[1] / "data" / "chatglm"
EXPECTED = load_file(DATA / "ptuning.safetensors")
CONFIG = ChatGLMConfig.read(DATA)
VARIANTS = ("ptuning", "ptuning_proj")
BATCHES = tuple((variant, row) for variant in VARIANTS for row in range(3))


def network(dtype: torch.dtype = torch.float32) -> ChatGLM:
    state = load_file(DATA / "model.safetensors")

    def part(kind: type, name: str) -> Linear | Norm:
        return kind(state[f"{name}.weight"].to(dtype), state[f"{name}.bias"].to(dtype))

    blocks = [
        Block(
            part(Norm, f"transformer.layers.{n}.input_layernorm"),
            part(Linear, f"transformer.layers.{n}.attention.query_key_value"),
            part(Linear, f"transformer.layers.{n}.attention.dense"),
            part(Norm, f"transformer.layers.{n}.post_attention_layernorm"),
            part(Linear, f"transformer.layers.{n}.mlp.dense_h_to_4h"),
            part(Linear, f"transformer.layers.{n}.mlp.dense_4h_to_h"),
        )
        for n in range(CONFIG.num_layers)
    ]
    embeddings = state["transformer.word_embeddings.weight"].to(dtype)
    weights = Weights(embeddings, tuple(blocks), part(Norm, "transformer.final_layernorm"))
    return ChatGLM(CONFIG, weights, Reference(dtype))


MODEL = SimpleNamespace(network=network())


def published(variant: str) -> dict[str, Tensor]:
    """The tensors of a published prefix by their official names."""
    start = f"{variant}/state/"
    return {name.removeprefix(start): t.clone() for name, t in EXPECTED.items() if name.startswith(start)}


def save(state: dict[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".bin":
        torch.save(state, file)
    else:
        save_file(state, file)
    return file


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prefix]:
    """Both resident at once."""
    folder = tmp_path_factory.mktemp("prefixes")
    return {
        variant: load_prefix(save(published(variant), folder / f"{variant}.safetensors"), MODEL)
        for variant in VARIANTS
    }


def encoder(variant: str) -> PrefixEncoder:
    """The encoder in training, with the published parameters."""
    state = {name.removeprefix(PREFIX): tensor for name, tensor in published(variant).items()}
    result = PrefixEncoder(CONFIG, 8, projection=variant.endswith("proj"))
    result.load_state_dict(state)
    return result


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


def new_cache(prefix: Prefix | None) -> KVCache:
    """A cache that a prefix begins, in pages of its own."""
    pages = MODEL.network.new_pages(8, "float32")
    return KVCache(pages) if prefix is None else MODEL.network.prefix_cache(prefix, pages)


def follow(prefix: Prefix, ids: list[int], tokens: Tensor, steps: Tensor) -> None:
    """Prompt and expected greedy tokens through the cache, against expected logits."""
    net = MODEL.network
    cache = new_cache(prefix)
    logits = net.begin([ids], [cache])
    for token, expected in zip(tokens.tolist(), steps, strict=True):
        assert int(logits[0].argmax()) == token
        logits = net.decode([token], [cache])
        close(logits[0], expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_values_are_the_published_encoders(variant: str, prefixes: dict[str, Prefix]) -> None:
    prefix = prefixes[variant]
    assert prefix.name == variant
    assert prefix.length == 8
    for layer in range(CONFIG.num_layers):
        for index, kind in enumerate(("key", "value")):
            expected = EXPECTED[f"{variant}/prompt.{layer}.{kind}"][:, 0]
            torch.testing.assert_close(prefix.values[layer, index], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_sees_the_prefix(variant: str, prefixes: dict[str, Prefix]) -> None:
    ids = EXPECTED[f"{variant}/input_ids"][0].tolist()
    close(MODEL.network.logits(ids, prefixes[variant]), EXPECTED[f"{variant}/logits"][0])
    follow(
        prefixes[variant],
        ids,
        EXPECTED[f"{variant}/greedy_tokens"][0],
        EXPECTED[f"{variant}/step_logits"][0],
    )


@pytest.mark.parametrize(("variant", "row"), BATCHES)
def test_rows_of_a_padded_batch(variant: str, row: int, prefixes: dict[str, Prefix]) -> None:
    """What the published model computes with padding comes out without."""
    case = {
        name: EXPECTED[f"{variant}_batch/{name}"][row] for name in ("input_ids", "logits", "attention_mask")
    }
    real = ~case["attention_mask"][0].diagonal()
    ids = case["input_ids"][real].tolist()
    assert CONFIG.pad_token_id not in ids
    close(MODEL.network.logits(ids, prefixes[variant]), EXPECTED[f"{variant}_batch/logits"][row, real])
    follow(
        prefixes[variant],
        ids,
        EXPECTED[f"{variant}_batch/greedy_tokens"][row],
        EXPECTED[f"{variant}_batch/step_logits"][row],
    )


def test_prefixes_of_one_batch_do_not_touch_each_other(prefixes: dict[str, Prefix]) -> None:
    net = MODEL.network
    ids = EXPECTED["ptuning/input_ids"][0].tolist()
    chosen = (prefixes["ptuning"], None, prefixes["ptuning_proj"])
    pages = net.new_pages(24, "float32")
    held = [None if prefix is None else net.prefix_cache(prefix, pages) for prefix in chosen]
    caches = [KVCache(pages) if cache is None else cache.fork() for cache in held]
    together = [net.begin([ids] * 3, caches), net.decode([17] * 3, caches)]
    for row, prefix in enumerate(chosen):
        cache = new_cache(prefix)
        close(together[0][row], net.begin([ids], [cache])[0])
        close(together[1][row], net.decode([17], [cache])[0])
    assert not torch.allclose(together[0][0], together[0][2], atol=1)
    close(together[0][0], EXPECTED["ptuning/logits"][0, -1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_sees_the_published_loss_and_gradients(variant: str) -> None:
    case = f"{variant}_train"
    tuned = encoder(variant)
    prefix = Prefix(tuned())
    rows = EXPECTED[f"{case}/input_ids"].tolist()
    logits = torch.stack([MODEL.network.logits(ids, prefix) for ids in rows])
    labels = EXPECTED[f"{case}/labels"]
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(loss.detach(), EXPECTED[f"{case}/loss"][0], atol=1e-4, rtol=1e-4)
    if f"{case}/logits" in EXPECTED:
        close(logits.detach(), EXPECTED[f"{case}/logits"])
    loss.backward()
    for name, parameter in tuned.named_parameters():
        assert parameter.grad is not None
        gradient, expected = parameter.grad, EXPECTED.get(f"{case}/grad/{PREFIX}{name}")
        if expected is None:
            gradient, expected = gradient.sum(1), EXPECTED[f"{case}/grad_rowsum/{PREFIX}{name}"]
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_an_encoders_state_dict_is_a_published_prefix(tmp_path: Path) -> None:
    torch.manual_seed(1)
    for projection in (False, True):
        tuned = PrefixEncoder(CONFIG, 5, projection=projection, dropout=0.1)
        state = {PREFIX + name: tensor for name, tensor in tuned.state_dict().items()}
        prefix = load_prefix(save(state, tmp_path / f"{projection}.safetensors"), MODEL)
        assert prefix.length == 5
        assert torch.equal(prefix.values, tuned.eval()().detach())


def test_dropout_is_for_training_only() -> None:
    tuned = PrefixEncoder(CONFIG, 8, dropout=0.5)
    assert 0.3 < (tuned() == 0).float().mean() < 0.7
    assert (tuned.eval()() == 0).sum() == 0


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_of_a_training_is_read(file: str, tmp_path: Path, prefixes: dict[str, Prefix]) -> None:
    folder = tmp_path / "checkpoint-3000"
    save(published("ptuning"), folder / file)
    (folder / "config.json").write_text('{"pre_seq_len": 8, "prefix_projection": false}')
    prefix = load_prefix(str(folder), MODEL)
    assert prefix.name == "checkpoint-3000"
    assert torch.equal(prefix.values, prefixes["ptuning"].values)


def test_of_a_full_checkpoint_only_the_prefix_is_read(tmp_path: Path, prefixes: dict[str, Prefix]) -> None:
    full = load_file(DATA / "model.safetensors") | published("ptuning_proj")
    prefix = load_prefix(save(full, tmp_path / "full.bin"), MODEL)
    assert torch.equal(prefix.values, prefixes["ptuning_proj"].values)


def test_a_prefix_in_half_precision(tmp_path: Path, prefixes: dict[str, Prefix]) -> None:
    """It is computed in float32 and rounded once, whatever it is stored in."""
    file = save({name: t.half() for name, t in published("ptuning").items()}, tmp_path / "half.safetensors")
    prefix = load_prefix(file, SimpleNamespace(network=network(torch.float16)))
    assert prefix.values.dtype == torch.float16
    assert torch.equal(prefix.values, prefixes["ptuning"].values.half())
    ids = EXPECTED["ptuning/input_ids"][0].tolist()
    expected = EXPECTED["ptuning/logits"][0]
    torch.testing.assert_close(network(torch.float16).logits(ids, prefix).argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("change", [{"num_layers": 2}, {"hidden_size": 128}])
def test_a_prefix_of_another_model_is_refused(variant: str, change: dict[str, int], tmp_path: Path) -> None:
    file = save(published(variant), tmp_path / "prefix.safetensors")
    other = SimpleNamespace(config=replace(CONFIG, **change), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ModelError, match="another base model") as raised:
        load_prefix(file, SimpleNamespace(network=other))
    assert raised.value.file == file
    assert raised.value.tensor is not None
    assert str(list(published(variant)[raised.value.tensor].shape)) in raised.value.problem
    assert (
        f"{other.config.num_layers} layers and hidden size {other.config.hidden_size}" in raised.value.problem
    )


@pytest.mark.parametrize("left_out", ["embedding.weight", "trans.0.bias"])
def test_a_missing_tensor_is_named(left_out: str, tmp_path: Path) -> None:
    state = {name: t for name, t in published("ptuning_proj").items() if not name.endswith(left_out)}
    with pytest.raises(ModelError, match="missing") as raised:
        load_prefix(save(state, tmp_path / "prefix.bin"), MODEL)
    assert raised.value.tensor == PREFIX + left_out


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    state = published("ptuning") | {f"{PREFIX}trans.4.weight": torch.zeros(2)}
    with pytest.raises(ModelError) as raised:
        load_prefix(save(state, tmp_path / "prefix.bin"), MODEL)
    assert raised.value.tensor is not None


def test_values_that_overflow_are_refused(tmp_path: Path) -> None:
    state = published("ptuning")
    state[f"{PREFIX}embedding.weight"][3, 3] = 1e5
    file = save(state, tmp_path / "prefix.bin")
    assert load_prefix(file, MODEL).values.max() == 1e5
    with pytest.raises(ModelError, match="not finite in float16"):
        load_prefix(file, SimpleNamespace(network=network(torch.float16)))


def test_a_model_without_prefix_a_pointer_and_no_file_are_refused(tmp_path: Path) -> None:
    pointer = tmp_path / "pytorch_model.bin"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 117441000\n")
    for path, problem in (
        (DATA / "model.safetensors", "holds no tensor"),
        (pointer, "(?i)lfs"),
        (tmp_path / "missing", "no such file"),
    ):
        with pytest.raises(ModelError, match=problem) as raised:
            load_prefix(path, MODEL)
        assert raised.value.file == path
        assert raised.value.remedy
