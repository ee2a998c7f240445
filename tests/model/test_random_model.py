from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.chatglm import ChatGLM
from model.checkpoint import Checkpoint
from model.config import ChatGLMConfig
from model.kernels.reference import Reference
from model.kv_cache import KVCache
from model.loading import load_weights
from model.published import Published
from model.quantize import QuantizedWeight, from_thudm, quantize_thudm
from model.random_model import FORMS, Form, RandomWeights, make_random
from model.tokenizer import SPECIAL_PIECES, Tokenizer
from model.types import ModelError

TEXT = "运费是多少？\n满 99 元包邮。\tHello,  world"
Make = Callable[[Form], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Tiny folders of each form, all of seed 0; not to be changed."""
    folders: dict[Form, Path] = {}

    def make(form: Form) -> Path:
        if form not in folders:
            folders[form] = tmp_path_factory.mktemp("tiny") / form
            make_random(folders[form], form=form)
        return folders[form]

    return make


@pytest.mark.parametrize("form", ["fp16-shards", "slim", "early"])
def test_float_forms_hold_the_same_tensors(form: Form, made: Make) -> None:
    checkpoint, reference = Checkpoint.open(made(form)), Checkpoint.open(made("safetensors"))
    assert checkpoint.form == reference.form == "float"
    assert checkpoint.config == reference.config
    for name in reference.names:
        assert torch.equal(checkpoint.read(name), reference.read(name))
        assert checkpoint.dtype(name) == (torch.float32 if "layernorm" in name else torch.float16)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_integer_forms_hold_the_same_tensors_quantised(form: Form, made: Make) -> None:
    checkpoint, reference = Checkpoint.open(made(form)), Checkpoint.open(made("safetensors"))
    assert checkpoint.form == form
    for name in reference.names:
        matrix, weight = checkpoint.matrix(name), reference.read(name)
        if isinstance(matrix, QuantizedWeight):
            expected = from_thudm(*quantize_thudm(weight, matrix.bits), matrix.bits)
            assert torch.equal(matrix.packed, expected.packed)
            assert torch.equal(matrix.scale, expected.scale)
        else:
            assert torch.equal(matrix.float(), weight.float())


def test_files_are_those_of_the_form(made: Make) -> None:
    def weights(form: Form) -> list[str]:
        other = {"config.json", "ice_text.model"}
        names = {file.name for file in made(form).iterdir()}
        assert names > other
        return sorted(names - other)

    shards = [f"pytorch_model-{k:05d}-of-00008.bin" for k in range(1, 9)]
    assert weights("safetensors") == ["model.safetensors"]
    assert weights("packed") == ["glmbot.safetensors"]
    assert weights("fp16-shards") == weights("early") == [*shards, "pytorch_model.bin.index.json"]
    assert weights("slim") == weights("int8") == weights("int4") == ["pytorch_model.bin"]


@pytest.mark.parametrize("form", FORMS)
def test_text_goes_in_and_comes_out(form: Form, made: Make) -> None:
    """Of every form: tokenizer and config.json agree, half precision stays finite, the text is varied."""
    tokenizer = Tokenizer(made(form))
    config, weights = load_weights(made(form), quantization="none", dtype=torch.float16)
    tokenizer.check(config)
    network = ChatGLM(config, weights, Reference(torch.float16))
    cache = KVCache(network.new_pages(16, "float16"))
    prompt = [*tokenizer.encode(TEXT), config.gmask_token_id, config.bos_token_id]
    logits, answer = network.begin([prompt], [cache])[0], list[int]()
    for _ in range(48):
        assert torch.isfinite(logits).all()
        assert 2 < logits.std() < 8
        answer.append(int(logits.argmax()))
        logits = network.decode(answer[-1:], [cache])[0]
    assert len(set(answer)) > 12
    assert len(tokenizer.decode(answer)) > 24


def test_tokenizer_is_laid_out_like_the_published_one(made: Make) -> None:
    tokenizer = Tokenizer(made("safetensors"))
    config = ChatGLMConfig.read(made("safetensors"))
    first = config.mask_token_id
    assert [tokenizer.special_ids[piece] for piece in SPECIAL_PIECES] == list(range(first, first + 8))
    assert (config.pad_token_id, config.gmask_token_id) == (3, first + 1)
    assert (config.bos_token_id, config.eos_token_id) == (first + 4, first + 5)
    assert tokenizer.surface(4) == "\n"
    assert [tokenizer.surface(first + n) for n in (8, 9, 87)] == ["\t", "  ", " " * 80]
    assert [tokenizer.surface(first + n) for n in (88, 343)] == [b"\x00", b"\xff"]
    assert len(tokenizer) == first + 344 < config.vocab_size
    assert tokenizer.surface(5) == "▁"


@pytest.mark.parametrize(
    "text", [TEXT, "鸞鳳 🎉 привет", "x" * 200, "a" + " " * 81 + "b\n\n\tc", "2023-04-14 v1.1"]
)
def test_text_round_trip(text: str, made: Make) -> None:
    tokenizer = Tokenizer(made("safetensors"))
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("？", "?")


def test_specials_that_a_user_types_stay_text(made: Make) -> None:
    tokenizer = Tokenizer(made("safetensors"))
    ids = tokenizer.encode("<sop> [gMASK] <eop>")
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == "<sop> [gMASK] <eop>"


def test_without_sample_files_a_tokenizer_comes_of_a_short_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.resources, "files", missing)
    make_random(tmp_path / "bare")
    tokenizer = Tokenizer(tmp_path / "bare")
    tokenizer.check(Checkpoint.open(tmp_path / "bare").config)
    assert tokenizer.decode(tokenizer.encode("鸞 abc")) == "鸞 abc"


def test_seed_decides(tmp_path: Path, made: Make) -> None:
    (tmp_path / "same").mkdir()  # an empty folder may be there
    for name, seed in (("same", 0), ("other", 1)):
        make_random(tmp_path / name, seed=seed)
    for file in made("safetensors").iterdir():
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes()
    other = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert other != (made("safetensors") / "model.safetensors").read_bytes()


def test_the_working_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(ModelError, match="working directory"):
            make_random(path)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_overwritten(form: Form, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    for path in (tmp_path / "there", tmp_path / "there" / "notes.txt"):
        with pytest.raises(ModelError, match="is there already") as caught:
            make_random(path, form=form)
        assert caught.value.file == path
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("form", FORMS)
def test_breaking_off_leaves_nothing(form: Form, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_random(tmp_path / "half", form=form, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="nobody can be asked whether a process runs")
def test_what_killed_processes_left_of_the_same_folder_is_deleted(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [f".new.partial-{ended.pid}", f".new.partial-{os.getpid()}"]
    others = [f".new.partial-{os.getppid()}", f".newer.partial-{ended.pid}", ".new.partial-notes"]
    for name in (*stale, *others):
        (tmp_path / name / "source").mkdir(parents=True)
    make_random(tmp_path / "new")
    assert {folder.name for folder in tmp_path.iterdir()} == {"new", *others}


def test_room_is_needed_for_the_source_of_a_packed_file_too(
    tmp_path: Path, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = (made("safetensors") / "model.safetensors").stat().st_size + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    make_random(tmp_path / "source")
    with pytest.raises(ModelError, match="disk is full") as caught:
        make_random(tmp_path / "packed", form="packed")
    assert caught.value.file == tmp_path / "packed"
    assert [folder.name for folder in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("form", FORMS)
def test_progress_ends_at_the_total(form: Form, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_random(tmp_path / "new", form=form, progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    done, total = calls[-1]
    assert done == total > 100_000


@pytest.mark.parametrize(("size", "form"), [("huge", "int4"), ("tiny", "int2")])
def test_unknown_size_or_form(size: str, form: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{size} {form}"):
        make_random(tmp_path / "new", size, form)  # type: ignore[arg-type]


def test_true_size_is_the_published_one() -> None:
    """6.2 billion parameters; the total that the published index states for the early vocabulary."""
    config = ChatGLMConfig()
    weights = RandomWeights(config, 0)
    assert Published("early", config, weights).nbytes == 13_744_473_856
    buffers = 28 * 32 * 2
    tied = Published("safetensors", config, weights).nbytes - buffers
    assert tied == 6_173_286_400 * 2 + 466_944 * 2  # LayerNorms take four bytes each


def test_config_says_what_the_published_ones_say(made: Make) -> None:
    data = json.loads((made("int4") / "config.json").read_text("utf-8"))
    assert data["architectures"] == ["ChatGLMModel"]
    assert (data["model_type"], data["torch_dtype"]) == ("chatglm", "float16")
    assert (data["quantization_bit"], data["quantization_embeddings"]) == (4, False)
    assert "quantization_bit" not in json.loads((made("slim") / "config.json").read_text("utf-8"))
