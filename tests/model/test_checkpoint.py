from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import EMBEDDINGS, LM_HEAD, Checkpoint, read_tensors
from model.config import ChatGLMConfig
from model.published import SHARDS, Published, PublishedForm
from model.quantize import QuantizedWeight
from model.tensor_file import TensorFile
from model.types import ModelError

DATA = Path(__file__).parent.parent / "data" / "chatglm"
QKV = "transformer.layers.1.attention.query_key_value.weight"
NORM = "transformer.layers.2.input_layernorm.weight"
SHARDED: tuple[PublishedForm, ...] = ("fp16-shards", "early")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return Checkpoint.open(DATA / "model.safetensors")


@pytest.fixture(scope="module")
def written(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[PublishedForm], Path]:
    """Folders of the tiny model in each form, float ones in float32; not to be changed."""
    folders: dict[PublishedForm, Path] = {}

    def write(form: PublishedForm) -> Path:
        if form not in folders:
            folders[form] = tmp_path_factory.mktemp(form)
            Published(form, source.config, source.read, torch.float32).write(folders[form])
        return folders[form]

    return write


@pytest.fixture
def state() -> State:
    return load_file(DATA / "model.safetensors")


@pytest.fixture
def int4_state() -> State:
    return load_file(DATA / "int4_checkpoint.safetensors")


def save(folder: Path, state: State, name: str = "model.safetensors", **changes: Any) -> Path:
    """A folder of one file, its config.json with `changes`."""
    folder.mkdir(exist_ok=True)
    config = json.loads((DATA / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    if name.endswith(".bin"):
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def refused(path: Path, *texts: str) -> ModelError:
    """The error of opening; it has a file and a remedy, and its text holds `texts`."""
    with pytest.raises(ModelError) as caught:
        Checkpoint.open(path)
    error = caught.value
    assert error.file is not None
    assert error.remedy
    for text in texts:
        assert text in str(error)
    return error


# -- forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "fp16-shards", "slim", "early"])
def test_float_forms_give_every_tensor_back(
    form: PublishedForm, source: Checkpoint, written: Callable[[PublishedForm], Path]
) -> None:
    checkpoint = Checkpoint.open(written(form))
    assert checkpoint.form == "float"
    assert checkpoint.config == source.config
    assert checkpoint.names == source.names
    for name in checkpoint.names:
        read = checkpoint.read(name)
        assert torch.equal(read, source.read(name))
        assert (tuple(read.shape), read.dtype) == (checkpoint.shape(name), checkpoint.dtype(name))


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_integer_forms_are_those_of_the_reference(
    form: PublishedForm, written: Callable[[PublishedForm], Path]
) -> None:
    ours = Checkpoint.open(written(form))
    reference = Checkpoint.open(DATA / f"{form}_checkpoint.safetensors")
    assert ours.form == reference.form == form
    for name in reference.names:
        mine, theirs = ours.matrix(name), reference.matrix(name)
        if isinstance(theirs, QuantizedWeight):
            assert isinstance(mine, QuantizedWeight)
            assert (theirs.out_features, theirs.in_features) == reference.shape(name)
            assert mine.bits == theirs.bits == int(form[-1])
            assert torch.equal(mine.integers(), theirs.integers())
            assert torch.equal(mine.scale, theirs.scale)
        else:
            assert isinstance(mine, Tensor)
            assert torch.equal(mine, theirs)
            assert mine.dtype == theirs.dtype


def test_early_form_has_image_tokens_in_front_and_loses_them(
    source: Checkpoint, written: Callable[[PublishedForm], Path]
) -> None:
    folder = written("early")
    config = ChatGLMConfig.read(folder)
    assert config.vocab_size == source.config.vocab_size + 20_000
    assert config.pad_token_id == source.config.pad_token_id + 20_000
    stored = torch.load(folder / "pytorch_model-00001-of-00008.bin", weights_only=True)[EMBEDDINGS]
    assert len(stored) == config.vocab_size
    assert torch.equal(Checkpoint.open(folder).read(EMBEDDINGS), stored[20_000:])


@pytest.mark.parametrize("form", SHARDED)
def test_output_matrix_lies_alone_in_the_last_of_eight_shards(
    form: PublishedForm, written: Callable[[PublishedForm], Path]
) -> None:
    files = Checkpoint.open(written(form)).files
    assert len(files) == SHARDS
    shards = [torch.load(file, weights_only=True) for file in files]
    assert all(shards)
    assert list(shards[-1]) == [LM_HEAD]


def test_config_of_an_integer_form_says_so_but_does_not_decide(
    written: Callable[[PublishedForm], Path], int4_state: State, tmp_path: Path
) -> None:
    assert json.loads((written("int4") / "config.json").read_text("utf-8"))["quantization_bit"] == 4
    assert Checkpoint.open(save(tmp_path / "a", int4_state)).form == "int4"
    assert Checkpoint.open(save(tmp_path / "b", int4_state, quantization_bit=8)).form == "int4"


def test_scales_may_be_float32(int4_state: State, tmp_path: Path) -> None:
    wide = {name: t.float() if name.endswith("_scale") else t for name, t in int4_state.items()}
    matrix = Checkpoint.open(save(tmp_path / "wide", wide)).matrix(QKV)
    assert isinstance(matrix, QuantizedWeight)
    assert matrix.scale.dtype == torch.float32
    assert torch.equal(matrix.scale[:, 0], wide[f"{QKV}_scale"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_taken(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    mixed = state | {QKV: state[QKV].to(dtype)}
    checkpoint = Checkpoint.open(save(tmp_path / "mixed", mixed, "pytorch_model.bin"))
    assert checkpoint.dtype(QKV) == checkpoint.read(QKV).dtype == dtype
    assert checkpoint.dtype(NORM) == torch.float32


def test_shards_in_safetensors_open_by_their_index(state: State, tmp_path: Path) -> None:
    folder = save(tmp_path / "shards", {}, "unused.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    checkpoint = Checkpoint.open(folder)
    assert [file.name for file in checkpoint.files] == list(parts)
    assert checkpoint.largest_file == max((folder / file).stat().st_size for file in parts)
    assert torch.equal(checkpoint.read(QKV), state[QKV])


def test_bins_from_before_2020_open(state: State, tmp_path: Path) -> None:
    folder = save(tmp_path / "old", {}, "unused.safetensors")
    names = sorted(state)
    parts = {"a.bin": names[:20], "b.bin": names[20:]}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, folder / file, _use_new_zipfile_serialization=False)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    checkpoint = Checkpoint.open(folder)
    for name in checkpoint.names:
        assert torch.equal(checkpoint.read(name), state[name])


@pytest.mark.parametrize(("form", "files"), [("int4", 1), ("fp16-shards", SHARDS - 1)])
def test_every_bin_is_opened_once_to_check_and_once_to_read(
    form: PublishedForm,
    files: int,
    written: Callable[[PublishedForm], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many tensors it has; the last shard is the output matrix, which is tied."""
    opened: list[Path] = []
    load = torch.load

    def counting(file: Path, **options: Any) -> Any:
        opened.append(file)
        return load(file, **options)

    monkeypatch.setattr(torch, "load", counting)
    checkpoint = Checkpoint.open(written(form))
    assert opened == list(checkpoint.files)
    opened.clear()
    kept = [
        checkpoint.matrix(name) if "dense" in name else checkpoint.read(name) for name in checkpoint.names
    ]
    assert len(kept) > 4 * files
    assert sorted(opened) == list(checkpoint.files[:files])


def test_a_folder_prefers_safetensors_to_bin_and_the_usual_name_to_others(
    state: State, tmp_path: Path
) -> None:
    folder = save(tmp_path / "both", {"x": torch.ones(1)}, "pytorch_model.bin")
    save(folder, state)
    save_file({"x": torch.ones(1)}, folder / "cases.safetensors")
    assert [file.name for file in Checkpoint.open(folder).files] == ["model.safetensors"]


def test_the_only_safetensors_of_a_folder_may_have_any_name(int4_state: State, tmp_path: Path) -> None:
    folder = save(tmp_path / "one", int4_state, "chatglm-int4.safetensors")
    assert Checkpoint.open(folder).form == "int4"


def test_prefix_tensors_beside_the_model_are_no_part_of_it(state: State, tmp_path: Path) -> None:
    prefix = {"transformer.prefix_encoder.embedding.weight": torch.ones(8, 384)}
    checkpoint = Checkpoint.open(save(tmp_path / "tuned", state | prefix, pre_seq_len=8))
    assert not [name for name in checkpoint.names if "prefix" in name]
    assert list(read_tensors(tmp_path / "tuned")) == ["embedding.weight"]


def test_fingerprint_changes_with_a_file(state: State, tmp_path: Path) -> None:
    folder = save(tmp_path / "one", state)
    before = Checkpoint.open(folder).fingerprint()
    assert Checkpoint.open(folder).fingerprint() == before
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert Checkpoint.open(folder).fingerprint() != before


# -- what would not load ----------------------------------------------------------------------


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no such file or folder")
    refused(tmp_path, "no config.json")
    save(tmp_path / "bare", {}, "x.bin")
    refused(tmp_path / "bare", "no weights")


@pytest.mark.parametrize("model_type", ["chatglm", "llama"])
def test_another_architecture_is_refused_by_its_type(model_type: str, state: State, tmp_path: Path) -> None:
    folder = save(tmp_path / "other", state)
    config = {"model_type": model_type, "num_layers": 28, "padded_vocab_size": 65_024}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    assert refused(folder, model_type).file == folder / "config.json"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(name: str, kept: float, state: State, tmp_path: Path) -> None:
    file = save(tmp_path / "cut", state, name) / name
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert refused(file.parent, "download it again").file == file


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.5, 0.999])
def test_truncated_bin_from_before_2020(kept: float, state: State, tmp_path: Path) -> None:
    file = save(tmp_path / "cut", {}, "x.bin") / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert refused(file.parent).file == file


def test_a_web_page_in_place_of_weights(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = save(tmp_path / name, {}, "x.bin") / name
        file.write_text("<html>404</html>" * 100)
        assert refused(file.parent, "download it again").file == file


def test_git_lfs_pointer(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = save(tmp_path / name, {}, "x.bin") / name
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1740651802\n")
        assert refused(file.parent, "Git LFS pointer", "git lfs pull").file == file


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_with_code_is_not_run(protocol: int, tmp_path: Path) -> None:
    file = save(tmp_path / "evil", {}, "x.bin") / "pytorch_model.bin"
    file.write_bytes(pickle.dumps({"x": Evil(tmp_path / "ran")}, protocol))
    assert refused(file.parent, "holds code, not only tensors").file == file
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_bin_with_code_is_not_run(as_zip: bool, state: State, tmp_path: Path) -> None:
    file = save(tmp_path / "evil", {}, "x.bin") / "pytorch_model.bin"
    evil = {**state, "x": Evil(tmp_path / "ran")}
    torch.save(evil, file, _use_new_zipfile_serialization=as_zip)
    assert refused(file.parent, "holds code, not only tensors").file == file
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_tensor_without_numbers_of_its_shape(device: str, state: State, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    state[NORM] = state[NORM].to("meta") if device == "meta" else nested
    folder = save(tmp_path / "odd", state, "pytorch_model.bin")
    assert refused(folder, "dense tensors").file == folder / "pytorch_model.bin"


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"state_dict": {"x": torch.ones(1)}}, {1: torch.ones(1)}]
)
def test_bin_without_state_dict(content: Any, tmp_path: Path) -> None:
    file = save(tmp_path / "odd", {}, "x.bin") / "pytorch_model.bin"
    torch.save(content, file)
    assert refused(file.parent, "no state dict").file == file


def test_index_names_a_missing_shard(written: Callable[[PublishedForm], Path], tmp_path: Path) -> None:
    folder = copy_of(written("fp16-shards"), tmp_path / "copy")
    shard = folder / "pytorch_model-00003-of-00008.bin"
    shard.unlink()
    assert refused(folder, "shard is missing", "pytorch_model.bin.index.json").file == shard


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"x": "../x.bin"}}']
)
def test_broken_index(content: str, tmp_path: Path) -> None:
    index = save(tmp_path / "shards", {}, "x.bin") / "pytorch_model.bin.index.json"
    index.write_text(content, "utf-8")
    assert refused(index.parent).file == index


def test_one_shard_alone_lacks_the_others(written: Callable[[PublishedForm], Path]) -> None:
    file = written("fp16-shards") / "pytorch_model-00002-of-00008.bin"
    error = refused(file, "missing", "name the folder")
    assert (error.file, error.tensor) == (file, EMBEDDINGS)


@pytest.mark.parametrize("name", [EMBEDDINGS, QKV, NORM, QKV.replace("weight", "bias")])
def test_missing_tensor(name: str, state: State, tmp_path: Path) -> None:
    del state[name]
    folder = save(tmp_path / "less", state)
    error = refused(folder, "missing")
    assert (error.file, error.tensor) == (folder / "model.safetensors", name)


@pytest.mark.parametrize("name", [EMBEDDINGS, LM_HEAD, QKV, NORM, QKV.replace("weight", "bias")])
def test_wrong_shape_names_both(name: str, state: State, tmp_path: Path) -> None:
    wanted = list(state[name].shape)
    state[name] = torch.ones(wanted[0] + 1, *wanted[1:])
    error = refused(save(tmp_path / "odd", state), str(wanted), str([wanted[0] + 1, *wanted[1:]]))
    assert error.tensor == name


@pytest.mark.parametrize("name", [EMBEDDINGS, QKV, NORM])
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_type_that_is_no_float(name: str, dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    state[name] = state[name].to(dtype)
    error = refused(save(tmp_path / "odd", state), str(dtype).removeprefix("torch."))
    assert error.tensor == name


def test_eight_bit_float(state: State, tmp_path: Path) -> None:
    state[QKV] = state[QKV].to(torch.float8_e4m3fn)
    for name in ("model.safetensors", "pytorch_model.bin"):
        assert refused(save(tmp_path / name, state, name)).tensor == QKV


@pytest.mark.parametrize("layers", [2, 4])
def test_config_of_another_depth(layers: int, state: State, tmp_path: Path) -> None:
    error = refused(save(tmp_path / "odd", state, num_layers=layers))
    assert error.tensor is not None
    assert error.tensor.startswith(f"transformer.layers.{min(layers, 3)}.")


def test_quantised_embeddings_have_no_place(int4_state: State, tmp_path: Path) -> None:
    scale = {f"{EMBEDDINGS}_scale": torch.ones(512, dtype=torch.float16)}
    assert refused(save(tmp_path / "qe", int4_state | scale)).tensor == f"{EMBEDDINGS}_scale"


def test_int4_integers_in_a_float_tensor(int4_state: State, tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in int4_state.items() if not name.endswith("_scale")}
    refused(save(tmp_path / "cast", state), "these are INT4-packed weights", "[192, 32]", "[192, 64]")


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_integers_without_scales(form: str, tmp_path: Path) -> None:
    state = load_file(DATA / f"{form}_checkpoint.safetensors")
    del state[f"{QKV}_scale"]
    assert refused(save(tmp_path / "bare", state), form, "no scale").tensor == f"{QKV}_scale"


@pytest.mark.parametrize("scale", [torch.ones(191).half(), torch.ones(192, 1).half(), torch.ones(192).char()])
def test_scales_that_do_not_fit(scale: Tensor, int4_state: State, tmp_path: Path) -> None:
    error = refused(save(tmp_path / "odd", int4_state | {f"{QKV}_scale": scale}))
    assert error.tensor == f"{QKV}_scale"


def test_scale_of_a_float_weight(state: State, tmp_path: Path) -> None:
    error = refused(save(tmp_path / "odd", state | {f"{QKV}_scale": torch.ones(192)}))
    assert error.tensor == f"{QKV}_scale"


def test_layers_of_two_forms(int4_state: State, tmp_path: Path) -> None:
    int8_state = load_file(DATA / "int8_checkpoint.safetensors")
    error = refused(save(tmp_path / "mixed", int4_state | {QKV: int8_state[QKV]}), "int8", "int4", "mixed")
    assert error.tensor == QKV


# -- vocabularies -----------------------------------------------------------------------------


def test_early_weights_with_a_slim_config(written: Callable[[PublishedForm], Path], tmp_path: Path) -> None:
    folder = copy_of(written("early"), tmp_path / "mixed")
    (folder / "config.json").write_bytes((written("slim") / "config.json").read_bytes())
    error = refused(folder, "20512", "512", "image tokens", "config.json that came with the weights")
    assert (error.file, error.tensor) == (folder / "pytorch_model-00001-of-00008.bin", EMBEDDINGS)


def test_slim_weights_with_an_early_config(written: Callable[[PublishedForm], Path], tmp_path: Path) -> None:
    folder = copy_of(written("slim"), tmp_path / "mixed")
    (folder / "config.json").write_bytes((written("early") / "config.json").read_bytes())
    error = refused(folder, "20512", "512", "image tokens")
    assert (error.file, error.tensor) == (folder / "pytorch_model.bin", EMBEDDINGS)


def test_early_head_beside_a_slim_embedding(
    written: Callable[[PublishedForm], Path], state: State, tmp_path: Path
) -> None:
    state[LM_HEAD] = torch.zeros(20_512, 64)
    assert refused(save(tmp_path / "mixed", state), "20512", "512").tensor == LM_HEAD


def test_slim_ids_in_an_early_config(written: Callable[[PublishedForm], Path], tmp_path: Path) -> None:
    folder = copy_of(written("early"), tmp_path / "mixed")
    config = json.loads((written("slim") / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 20_512}), "utf-8")
    assert refused(folder, "20512", "504", "mixed").file == folder / "config.json"


# -- prefixes ---------------------------------------------------------------------------------


def test_prefix_opened_as_a_model(tmp_path: Path) -> None:
    prefix = {"transformer.prefix_encoder.embedding.weight": torch.ones(8, 384)}
    refused(save(tmp_path / "prefix", prefix, "pytorch_model.bin"), "P-Tuning prefix", "model.prefixes")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_tensors_are_read_by_their_prefix(name: str, state: State, tmp_path: Path) -> None:
    values = torch.rand(8, 384)
    folder = save(tmp_path / "tuned", state | {"transformer.prefix_encoder.embedding.weight": values}, name)
    (folder / "config.json").unlink()
    for path in (folder, folder / name):
        tensors = read_tensors(path)
        assert list(tensors) == ["embedding.weight"]
        assert torch.equal(tensors["embedding.weight"], values)


def test_no_tensor_of_that_prefix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"transformer\.prefix_encoder"):
        read_tensors(DATA / "model.safetensors")
    with pytest.raises(ModelError, match="no such file"):
        read_tensors(tmp_path / "nothing")


# -- any damage -------------------------------------------------------------------------------

SMALL = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5).half(), "c": torch.ones(2, 2).char()}


@pytest.mark.parametrize("name", ["old.bin", "new.bin", "x.safetensors"])
@given(data=st.data())
def test_damaged_bytes_give_tensors_or_a_model_error(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("damaged") / name
    if name.endswith(".bin"):
        torch.save(SMALL, file, _use_new_zipfile_serialization=name == "new.bin")
    else:
        save_file(SMALL, file)
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    file.write_bytes(content)
    with suppress(ModelError):
        opened = TensorFile(file)
        for tensor in opened.tensors:
            opened.read(tensor).double().sum()
