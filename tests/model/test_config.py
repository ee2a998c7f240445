"""config.json of first-generation ChatGLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import PACKED_NAME, ChatGLMConfig, is_first_generation, is_other_family, read_config
from model.types import ModelError

SLIM = {
    "vocab_size": 130_528,
    "hidden_size": 4_096,
    "num_layers": 28,
    "num_attention_heads": 32,
    "inner_hidden_size": 16_384,
    "bos_token_id": 130_004,
    "eos_token_id": 130_005,
    "mask_token_id": 130_000,
    "gmask_token_id": 130_001,
    "pad_token_id": 3,
    "position_encoding_2d": True,
}
EARLY = {
    "vocab_size": 150_528,
    "hidden_size": 4_096,
    "num_layers": 28,
    "num_attention_heads": 32,
    "inner_hidden_size": 16_384,
    "bos_token_id": 150_004,
    "eos_token_id": 150_005,
    "position_encoding_2d": True,
}


def test_what_is_written_is_read_again() -> None:
    config = ChatGLMConfig.from_dict(SLIM)
    assert config == ChatGLMConfig()
    assert ChatGLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("more", [{}, {"pad_token_id": 0}, {"pad_token_id": 3}, {"pad_token_id": 20_003}])
def test_an_early_configuration_without_image_tokens_is_the_slim_one(more: dict[str, int]) -> None:
    config = ChatGLMConfig.from_dict(EARLY | more)
    assert config.is_early
    assert config.gmask_token_id == 150_001
    assert config.slim() == ChatGLMConfig()
    assert not config.slim().is_early


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_layers", "num_attention_heads", "bos_token_id"]
)
@pytest.mark.parametrize("value", [None, 0.5, "many", -1, True])
def test_a_key_that_cannot_be_is_named(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=key) as caught:
        ChatGLMConfig.from_dict(SLIM | {key: value}, Path("config.json"))
    assert caught.value.file == Path("config.json")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bos_token_id": 150_004}, "bos_token_id 150004 lies outside"),
        ({"vocab_size": 150_528, "gmask_token_id": 150_529}, "gmask_token_id 150529 lies outside"),
        ({"num_attention_heads": 33}, "33 heads"),
        ({"layernorm_epsilon": 0}, "layernorm_epsilon"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes: dict[str, int], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        ChatGLMConfig.from_dict(SLIM | changes)


@pytest.mark.parametrize(
    ("text", "problem"), [(None, "no config.json"), ("{", "cannot be read"), ("[]", "object")]
)
def test_a_folder_without_a_readable_configuration(text: str | None, problem: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=problem) as caught:
        read_config(tmp_path)
    assert caught.value.remedy


def test_a_slim_vocabulary_may_be_padded_with_any_of_its_ids() -> None:
    config = ChatGLMConfig.from_dict(SLIM | {"pad_token_id": SLIM["eos_token_id"]})
    assert not config.is_early
    assert config.slim() == config


def test_a_small_early_vocabulary_without_a_padding_is_known_by_its_ids() -> None:
    ids = {"vocab_size": 20_512, "bos_token_id": 20_504, "eos_token_id": 20_505}
    small = EARLY | {"hidden_size": 64, "num_attention_heads": 4} | ids
    assert ChatGLMConfig.from_dict(small).slim().bos_token_id == 504


@pytest.mark.parametrize("key", ["num_layers", "hidden_size", "vocab_size"])
def test_a_size_that_nobody_could_hold_is_refused(key: str) -> None:
    with pytest.raises(ModelError, match=key):
        ChatGLMConfig.from_dict(SLIM | {key: 4 * 10**9})


def test_a_configuration_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path)


def test_the_first_generation_is_known_by_its_own_keys() -> None:
    assert is_first_generation(SLIM)
    assert not is_first_generation({"model_type": "chatglm", "num_layers": 28, "multi_query_attention": True})


def test_a_folder_is_another_familys_unless_a_packed_file_lies_there(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama"}')
    assert is_other_family(tmp_path)
    assert not is_other_family(config)
    (tmp_path / PACKED_NAME).touch()
    assert not is_other_family(tmp_path)
    (tmp_path / PACKED_NAME).unlink()
    config.write_text(json.dumps(SLIM))
    assert not is_other_family(tmp_path)
