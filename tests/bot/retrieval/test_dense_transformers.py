"""Encoders from a folder of transformers, on a tiny random one made with transformers' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from bot.config import load_config
from bot.errors import ConfigError
from bot.retrieval import load_encoder

pytest.importorskip("torch")
pytest.importorskip("transformers")

WORDS = ("where", "is", "my", "parcel", "how", "much", "shipping", "运", "费", "退", "货", "怎", "么", "?")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXTS = ["where is my parcel ?", "运费", "怎么退货 how much shipping is it", "parcel", "", "where " * 40]
LONGEST = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights and a tokenizer of a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    vocabulary = [*SPECIALS, *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return copytree(made, tmp_path / "encoder")


def pool(folder: Path, **modes: bool) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes), "utf-8")


def hidden(folder: Path, text: str) -> Any:
    """What the network gives for one text, without padding: [tokens, 16]."""
    import torch
    from transformers import BertModel, BertTokenizerFast

    ids = BertTokenizerFast.from_pretrained(folder)(text, truncation=True, max_length=LONGEST).input_ids
    with torch.no_grad():
        return BertModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0].numpy()


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def test_rows_are_means_over_tokens_of_length_one(folder: Path) -> None:
    encoder = load_encoder(f"transformers:{folder}")
    assert encoder.dim == 16
    rows = encoder.encode(TEXTS)
    assert rows.dtype == np.float32
    expected = [unit(hidden(folder, text).mean(0)) for text in TEXTS]
    assert np.allclose(rows, expected, atol=1e-5)


def test_rows_are_those_of_the_first_token_where_the_folder_says_so(folder: Path) -> None:
    pool(folder, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    rows = load_encoder(f"transformers:{folder}").encode(TEXTS)
    assert np.allclose(rows, [unit(hidden(folder, text)[0]) for text in TEXTS], atol=1e-5)


def test_neither_neighbours_nor_threads_change_a_row(folder: Path) -> None:
    encoder = load_encoder(f"transformers:{folder}")
    many = [f"{'where ' * (number % 20)}{WORDS[number % len(WORDS)]}" for number in range(100)]
    alone = np.concatenate([encoder.encode([text]) for text in many])
    with ThreadPoolExecutor(4) as threads:
        for rows in threads.map(encoder.encode, [many] * 4):
            assert np.allclose(rows, alone, atol=1e-5)


def test_weights_of_half_precision_are_computed_in_float32(folder: Path) -> None:
    from transformers import BertModel

    expected = load_encoder(f"transformers:{folder}").encode(TEXTS[:1])
    BertModel.from_pretrained(folder).half().save_pretrained(folder)
    assert np.allclose(load_encoder(f"transformers:{folder}").encode(TEXTS[:1]), expected, atol=1e-2)


def test_folder_is_relative_to_the_config_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = folder.parent / "config.yaml"
    file.write_text("retrieval: {encoder: 'transformers:encoder'}\n", "utf-8")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    name = load_config(file).config.retrieval.encoder
    assert name == f"transformers:{folder}"
    assert load_encoder(name).encode(["parcel"]).shape == (1, 16)


def test_code_of_a_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "trap.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n", "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["auto_map"] = {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    assert load_encoder(f"transformers:{folder}").encode(["parcel"]).shape == (1, 16)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "novel"}), "utf-8")
    with pytest.raises(ConfigError):
        load_encoder(f"transformers:{folder}")
    assert not marker.exists()


def unlink(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def deepen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), "utf-8")


def project(folder: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unlink("config.json"), "config.json"),
        (unlink("model.safetensors"), "model.safetensors"),
        (cut, "incomplete"),
        (unlink("tokenizer.json", "vocab.txt"), "no vocabulary"),
        (deepen, r"weights lack encoder\.layer\.2"),
        (project, "module Dense"),
        (
            lambda folder: pool(folder, pooling_mode_max_tokens=True),
            "pooling_mode_max_tokens is not supported",
        ),
    ],
)
def test_folder_that_cannot_be_used_is_a_config_error(
    spoil: Callable[[Path], None], words: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=words) as caught:
        load_encoder(f"transformers:{folder}").encode(["parcel"])
    assert str(folder) in str(caught.value)
    assert caught.value.remedy


def test_missing_folder_is_a_config_error_and_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_encoder(f"transformers:{tmp_path}/nowhere")
    with pytest.raises(ConfigError, match="nobody/nothing"):
        load_encoder("transformers:nobody/nothing")
