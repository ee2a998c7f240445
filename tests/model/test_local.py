"""What config.yaml names, loaded or only looked at."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from structlog.testing import capture_logs

from model.local import check, create
from model.types import (
    ChatModel,
    Delta,
    GenerationParams,
    KVType,
    ModelBusy,
    ModelError,
    prompt_room,
)

PLAIN = GenerationParams()


async def ask(model: ChatModel, query: str, user: str = "u", params: GenerationParams = PLAIN) -> list[Delta]:
    return [delta async for delta in model.chat(query, (), params, user=user)]


@dataclass(frozen=True)
class Settings:
    path: Path | None
    device: Literal["auto", "cuda", "cpu", "mps"] = "cpu"
    quantization: Literal["int4", "int8", "none"] = "int4"
    kv_cache: KVType = "auto"
    max_context: int = 256
    max_new_tokens: int = 8
    max_running: int = 4
    max_per_user: int = 2
    memory: int | None = None
    prefixes: Mapping[str, Path] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ChatGLM with its tokenizer."""
    from model.random_model import make_random

    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_random(folder)
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the project's own file."""
    from model.random_model import make_random

    folder = tmp_path_factory.mktemp("models") / "packed"
    make_random(folder, form="packed")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer."""
    from tests.model.test_families import make_network, make_tokenizer

    folder = tmp_path_factory.mktemp("models") / "llama"
    make_network("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_config(folder: Path, **keys: object) -> Path:
    (folder / "config.json").write_text(json.dumps(keys), "utf-8")
    return folder


@pytest.mark.parametrize("family", ["tiny", "packed", "llama"])
async def test_the_configured_folder_answers(family: str, request: pytest.FixtureRequest) -> None:
    model = create(Settings(request.getfixturevalue(family)))
    try:
        assert (model.name, model.max_context) == (family, 256)
        assert 0 < model.count_tokens("怎么退货") < 20
        deltas = await ask(model, "怎么退货", params=GenerationParams(seed=1))
        assert "".join(delta.text for delta in deltas).strip()
        assert deltas[-1].finish in ("stop", "length")
    finally:
        await model.close()


async def test_another_family_counts_too_and_says_what_it_has_no_use_for(llama: Path) -> None:
    settings = Settings(llama, max_per_user=1, memory=10**12)
    with capture_logs() as logs:
        model = create(settings)
    try:
        [told] = [line["event"] for line in logs if line["log_level"] == "warning"]
        assert told == check(settings)[0]
        assert "model.max_running and model.memory" in told
        both = await asyncio.gather(ask(model, "一"), ask(model, "二"), return_exceptions=True)
        assert [type(one) for one in both] == [list, ModelBusy]
        assert model.registry.get_sample_value("glmbot_model_requests_total", {"end": "refused"}) == 1
    finally:
        await model.close()


@pytest.mark.parametrize("family", ["tiny", "llama"])
async def test_the_longest_prompt_and_the_longest_answer_fit_together(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = create(Settings(request.getfixturevalue(family), max_context=512, max_new_tokens=511))
    query = "退" * prompt_room(512)
    while model.count_tokens(query) > prompt_room(512):
        query = query[1:]
    try:
        deltas = await ask(model, query, params=GenerationParams(1000, seed=1))
        assert deltas[-1].finish
    finally:
        await model.close()


async def test_the_longest_talk_fits_behind_a_prefix(tiny: Path, tmp_path: Path) -> None:
    """Also where one talk is all that there is room for."""
    file = save_prefix(tiny, tmp_path / "shop.safetensors", tokens=15)
    model = create(Settings(tiny, max_new_tokens=200, max_running=1, prefixes={"shop": file}))
    try:
        deltas = await ask(model, "退" * 120, params=GenerationParams(1000, seed=1, prefix="shop"))
        assert deltas[-1].usage
        assert deltas[-1].usage.prompt > 256 - 128 - 15
    finally:
        await model.close()


def save_prefix(base: Path, file: Path, *, tokens: int) -> Path:
    """A random P-Tuning v2 checkpoint for a model."""
    import torch
    from safetensors.torch import save_file

    from model.config import ChatGLMConfig

    sizes = ChatGLMConfig.read(base)
    embedding = torch.randn(tokens, 2 * sizes.num_layers * sizes.hidden_size)
    save_file({"transformer.prefix_encoder.embedding.weight": embedding}, file)
    return file


async def test_configured_prefixes_are_resident(tiny: Path, tmp_path: Path) -> None:
    file = save_prefix(tiny, tmp_path / "shop.safetensors", tokens=4)
    model = create(Settings(tiny, quantization="none", prefixes={"shop": file}))
    try:
        greedy = GenerationParams(temperature=0.0)
        plain = await ask(model, "怎么退货", params=greedy)
        assert await ask(model, "怎么退货", params=GenerationParams(temperature=0.0, prefix="shop")) != plain
        assert await ask(model, "怎么退货", params=greedy) == plain
    finally:
        await model.close()


@pytest.mark.parametrize("kv_cache", ["int8", "int4"])
async def test_a_small_kv_cache_serves(tiny: Path, kv_cache: KVType) -> None:
    with capture_logs() as logs:
        model = create(Settings(tiny, kv_cache=kv_cache))
    try:
        assert (await ask(model, "怎么退货"))[-1].finish
    finally:
        await model.close()
    [told] = [line for line in logs if line["event"] == "memory for the model"]
    # 256 tokens of 3 layers of 4 heads of 16 numbers
    assert told["kv_cache"] == {"int8": "110.6 kB", "int4": "73.7 kB"}[kv_cache]


def test_a_tokenizer_that_is_missing_is_missed_at_the_start(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "mute")
    (folder / "ice_text.model").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        create(Settings(folder))


def test_without_the_packages_the_remedy_is_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "model.language_model", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="torch is not installed") as error:
        create(Settings(write_config(tmp_path, position_encoding_2d=True)))
    assert error.value.remedy == "run: pip install 'glmbot[model]'"
    monkeypatch.delitem(sys.modules, "model.family_folder", raising=False)
    with pytest.raises(ModelError, match="torch is not installed"):
        check(Settings(write_config(tmp_path, model_type="llama")))


def test_the_check_tells_which_families_serve_one_at_a_time(tmp_path: Path) -> None:
    qwen = write_config(tmp_path, model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    [notice] = check(Settings(qwen))
    assert "(qwen2) serves one request at a time" in notice
    with pytest.raises(ModelError, match="only ChatGLM-6B takes prefixes"):
        check(Settings(qwen, prefixes={"shop": tmp_path}))
    with pytest.raises(ModelError, match="only ChatGLM-6B has a KV cache in int8"):
        check(Settings(qwen, kv_cache="int8"))
    second = write_config(tmp_path, model_type="chatglm", architectures=["ChatGLMModel"], auto_map={})
    with pytest.raises(ModelError, match="code of its own"):
        check(Settings(second))


def test_the_check_opens_a_chatglm(tiny: Path, packed: Path) -> None:
    for path in (tiny, tiny / "model.safetensors", packed, packed / "glmbot.safetensors"):
        assert check(Settings(path)) == []


@pytest.mark.parametrize("family", ["tiny", "packed"])
def test_the_check_finds_what_would_not_load(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(family), tmp_path / "broken")
    tokenizer = folder / "ice_text.model"
    whole = tokenizer.read_bytes()
    for data, says in (
        (b"", "not a SentencePiece model"),
        (whole[:-40], "SentencePiece"),
        (None, "holds no"),
    ):
        tokenizer.unlink()
        if data is not None:
            tokenizer.write_bytes(data)
        with pytest.raises(ModelError, match=says):
            check(Settings(folder))
    tokenizer.write_bytes(whole)
    assert check(Settings(folder)) == []
    [weights] = folder.glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"damaged|truncated") as caught:
        check(Settings(folder))
    assert caught.value.file == weights


def test_the_check_misses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        check(Settings(tmp_path / "nowhere"))


def test_the_check_tells_which_of_two_forms_is_used(tiny: Path, packed: Path, tmp_path: Path) -> None:
    both = shutil.copytree(tiny, tmp_path / "both")
    shutil.copy(packed / "glmbot.safetensors", both)
    assert check(Settings(both)) == ["a packed file lies there and is used, not model.safetensors"]


def test_without_the_packages_the_check_knows_nothing_of_a_chatglm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.language_model", "model.loading"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    chatglm = write_config(tmp_path, model_type="chatglm", inner_hidden_size=64)
    assert check(Settings(chatglm)) == []
    assert check(Settings(chatglm / "config.json")) == []  # a file can only be a ChatGLM's


def test_the_check_misses_a_config_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        check(Settings(tmp_path))
