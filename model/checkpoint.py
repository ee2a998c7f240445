"""Checkpoints of ChatGLM-6B in every published form: checked whole before anything large is read.

Forms (spec/chatglm-6b.md, sections 1, 2 and 9): float shards or one file, `.bin` or `.safetensors`; the int8
and int4 files; vocabularies with and without image tokens; with and without the output matrix, which is tied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from model.config import CONFIG_NAME, IMAGE_TOKENS, ChatGLMConfig, is_first_generation, read_config
from model.quantize import dtype_name, from_thudm
from model.tensor_file import TensorFile, TensorInfo, weight_files
from model.types import ModelError
from model.weights import Matrix

Form = Literal["float", "int8", "int4"]

EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
PREFIX = "transformer.prefix_encoder."
LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OWN_CONFIG = "use the config.json that came with the weights"
_AGAIN = "download it again"
_WHOLE_FOLDER = "name the folder if there are several files, or download it again"


def tensor_shapes(config: ChatGLMConfig) -> dict[str, tuple[int, ...]]:
    """Official names, in the order of the layers, and logical shapes, [out, in], of all that is needed."""
    hidden, inner = config.hidden_size, config.inner_hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (config.vocab_size, hidden)}

    def affine(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for layer in range(config.num_layers):
        block = f"transformer.layers.{layer}"
        affine(f"{block}.input_layernorm", hidden)
        affine(f"{block}.attention.query_key_value", 3 * hidden, hidden)
        affine(f"{block}.attention.dense", hidden, hidden)
        affine(f"{block}.post_attention_layernorm", hidden)
        affine(f"{block}.mlp.dense_h_to_4h", inner, hidden)
        affine(f"{block}.mlp.dense_4h_to_h", hidden, inner)
    affine("transformer.final_layernorm", hidden)
    return shapes


def is_linear(name: str) -> bool:
    """Whether a tensor is the matrix of a linear of a block: these are what the published forms quantise."""
    return name.endswith(tuple(f".{linear}.weight" for linear in LINEARS))


def is_matrix(name: str) -> bool:
    """Whether a tensor is one that this project quantises: such a matrix, or the tied embedding."""
    return name == EMBEDDINGS or is_linear(name)


class Checkpoint:
    """Tensors by their official names, one at a time; `form` and vocabulary are told by the tensors.

    `config` is without image tokens, and so are shapes and tensors.
    """

    def __init__(self, folder: Path, config: ChatGLMConfig, files: Sequence[TensorFile]) -> None:
        self.folder = folder
        self.config = config.slim()
        self.files = tuple(file.path for file in files)
        self.largest_file = max(file.stat().st_size for file in self.files)
        self._dropped = IMAGE_TOKENS if config.is_early else 0
        self._shapes = tensor_shapes(self.config)
        self._file_of = {name: file for file in files for name in file.tensors}
        self._last: TensorFile | None = None
        _check_names(self)
        _check_vocabulary(self, config)
        self.form: Form = _form(self)
        _check_tensors(self)

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a folder, or a file with its config.json beside it.

        Raises ModelError for whatever would not load; no code of the checkpoint runs.
        """
        if not path.exists():
            raise ModelError("there is no such file or folder", file=path, remedy="check model.path")
        folder = path if path.is_dir() else path.parent
        data = read_config(folder)
        if not is_first_generation(data):
            raise ModelError(
                f"the model type is {data.get('model_type')!r}, not a first-generation ChatGLM",
                file=folder / CONFIG_NAME,
                remedy="name a folder of ChatGLM-6B",
            )
        config = ChatGLMConfig.from_dict(data, folder / CONFIG_NAME)
        return cls(folder, config, [TensorFile(file) for file in weight_files(path)])

    @property
    def names(self) -> tuple[str, ...]:
        """What a ChatGLM needs, in the order of the layers; scales belong to their matrices."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape, [out, in] of a matrix, however it is packed."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """As stored: int8 where quantised, int4 included."""
        return self._file_of[name].tensors[name].dtype

    def read(self, name: str) -> Tensor:
        """The tensor as stored, without rows of image tokens; a view of the mapped file: copy what is kept.

        Raises ModelError if the file changed meanwhile.
        """
        file = self._file_of[name]
        if self._last is not None and self._last is not file:
            self._last.forget()
        self._last = file
        tensor = file.read(name)
        return tensor[self._dropped :] if name == EMBEDDINGS else tensor

    def matrix(self, name: str) -> Matrix:
        """The matrix as stored: float, or integers with their scales."""
        weight = self.read(name)
        if self.form == "float" or not is_linear(name):
            return weight
        return from_thudm(weight, self.read(_scale_of(name)), 8 if self.form == "int8" else 4)

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of the weights and of config.json."""
        return fingerprint(self.folder / CONFIG_NAME, *self.files)

    def find(self, name: str) -> TensorInfo | None:
        """What the files say of any of their tensors; None if none has it."""
        file = self._file_of.get(name)
        return None if file is None else file.tensors[name]

    def stored_names(self) -> tuple[str, ...]:
        """Every name in the files, needed or not."""
        return tuple(self._file_of)

    def error(self, problem: str, name: str, remedy: str = _AGAIN) -> ModelError:
        """A ModelError about a tensor, naming the file that has it or ought to."""
        holder = self._file_of.get(name)
        place = holder.path if holder else self.files[0] if len(self.files) == 1 else self.folder
        return ModelError(problem, file=place, tensor=name, remedy=remedy)


def fingerprint(*files: Path) -> str:
    """Changes when a file does: of names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_tensors(path: Path, prefix: str = PREFIX) -> dict[str, Tensor]:
    """All tensors of a file or folder whose names begin with `prefix`, by the rest of their names.

    No config.json is needed. Raises ModelError like `Checkpoint.open`, also when no name begins so.
    """
    if not path.exists():
        raise ModelError("there is no such file or folder", file=path, remedy="check the path")
    found: dict[str, Tensor] = {}
    for file in map(TensorFile, weight_files(path)):
        wanted = [name for name in file.tensors if name.startswith(prefix)]
        found |= {name.removeprefix(prefix): file.read(name).clone() for name in wanted}
    if not found:
        raise ModelError(f"holds no tensor named {prefix}*", file=path, remedy="name the right file")
    return found


def _scale_of(name: str) -> str:
    return f"{name}_scale"


def _check_names(checkpoint: Checkpoint) -> None:
    """Refuse parts that a ChatGLM of this configuration has no place for: they would be lost silently."""
    for name in checkpoint.stored_names():
        known = name in checkpoint.names or (name.endswith("_scale") and is_linear(name[: -len("_scale")]))
        ignored = name == LM_HEAD or name.endswith(".rotary_emb.inv_freq") or name.startswith(PREFIX)
        if known or ignored or not name.startswith(("transformer.", "lm_head.")):
            continue
        layers = checkpoint.config.num_layers
        raise checkpoint.error(f"has no place in a ChatGLM of {layers} layers", name, _OWN_CONFIG)


def _check_vocabulary(checkpoint: Checkpoint, config: ChatGLMConfig) -> None:
    """Tell the vocabulary by the rows of the embedding and hold it against config.json."""
    embeddings = checkpoint.find(EMBEDDINGS)
    if embeddings is None:
        if any(name.startswith(PREFIX) for name in checkpoint.stored_names()):
            problem, remedy = "this is a P-Tuning prefix, not a model", "name it under model.prefixes"
            raise checkpoint.error(problem, EMBEDDINGS, remedy)
        raise _missing(checkpoint, EMBEDDINGS)
    if not 0 < checkpoint.config.vocab_size - checkpoint.config.bos_token_id <= IMAGE_TOKENS:
        raise ModelError(
            f"bos_token_id {config.bos_token_id} and vocab_size {config.vocab_size} do not belong together:"
            " two generations of the vocabulary are mixed",
            file=checkpoint.folder / CONFIG_NAME,
            remedy=_OWN_CONFIG,
        )
    head = checkpoint.find(LM_HEAD)
    for name, info in ((EMBEDDINGS, embeddings), (LM_HEAD, head)):
        if info is None or info.shape == (config.vocab_size, config.hidden_size):
            continue
        rows = info.shape[0] if info.shape else 0
        if info.shape[1:] == (config.hidden_size,) and abs(rows - config.vocab_size) == IMAGE_TOKENS:
            raise checkpoint.error(
                f"has {rows} rows where config.json says vocab_size {config.vocab_size}:"
                " vocabularies with and without image tokens are mixed",
                name,
                _OWN_CONFIG,
            )
        raise _wrong_shape(checkpoint, name, info, (config.vocab_size, config.hidden_size))


def _form(checkpoint: Checkpoint) -> Form:
    """The form that all matrices of the blocks share. Raises ModelError where they differ."""
    forms = {name: _form_of(checkpoint, name) for name in checkpoint.names if is_linear(name)}
    first = next(iter(forms.values()))
    for name, form in forms.items():
        if form != first:
            raise checkpoint.error(f"is {form}, other layers are {first}: two checkpoints are mixed", name)
    return first


def _form_of(checkpoint: Checkpoint, name: str) -> Form:
    info = checkpoint.find(name)
    if info is None:
        raise _missing(checkpoint, name)
    out_features, in_features = checkpoint.shape(name)
    halved = info.shape == (out_features, in_features // 2) and in_features % 2 == 0
    if info.dtype == torch.int8 and halved:
        return "int4"
    if info.dtype in _FLOATS and halved:
        raise checkpoint.error(
            f"has the type {dtype_name(info.dtype)} and the shape {list(info.shape)}"
            f" where {[out_features, in_features]} is wanted: these are INT4-packed weights, cast to float",
            name,
            "use the published INT4 file, whose weights are int8 with scales beside them",
        )
    if info.shape != (out_features, in_features):
        raise _wrong_shape(checkpoint, name, info, (out_features, in_features))
    if info.dtype != torch.int8 and info.dtype not in _FLOATS:
        raise _wrong_dtype(checkpoint, name, info)
    return "int8" if info.dtype == torch.int8 else "float"


def _check_tensors(checkpoint: Checkpoint) -> None:
    """Every needed tensor is there, of the right shape and type; scales are where integers are."""
    for name in checkpoint.names:
        if is_linear(name):
            _check_scale(checkpoint, name)
        elif (info := checkpoint.find(name)) is None:
            raise _missing(checkpoint, name)
        elif info.dtype not in _FLOATS:
            raise _wrong_dtype(checkpoint, name, info)
        elif name != EMBEDDINGS and info.shape != checkpoint.shape(name):
            raise _wrong_shape(checkpoint, name, info, checkpoint.shape(name))


def _check_scale(checkpoint: Checkpoint, name: str) -> None:
    scale = checkpoint.find(_scale_of(name))
    if checkpoint.form == "float":
        if scale is not None:
            raise checkpoint.error("there is a scale, but the weight is not quantised", _scale_of(name))
        return
    if scale is None:
        raise checkpoint.error(f"the {checkpoint.form} weight has no scale", _scale_of(name))
    if scale.dtype not in (torch.float16, torch.float32):
        raise _wrong_dtype(checkpoint, _scale_of(name), scale)
    if scale.shape != checkpoint.shape(name)[:1]:
        raise _wrong_shape(checkpoint, _scale_of(name), scale, checkpoint.shape(name)[:1])


def _missing(checkpoint: Checkpoint, name: str) -> ModelError:
    missing = sum(checkpoint.find(needed) is None for needed in checkpoint.names)
    others = f", as are {missing - 1} others" if missing > 1 else ""
    return checkpoint.error(f"the tensor is missing{others}", name, _WHOLE_FOLDER)


def _wrong_shape(checkpoint: Checkpoint, name: str, info: TensorInfo, wanted: Sequence[int]) -> ModelError:
    return checkpoint.error(
        f"has the shape {list(info.shape)} where {list(wanted)} is wanted", name, _OWN_CONFIG
    )


def _wrong_dtype(checkpoint: Checkpoint, name: str, info: TensorInfo) -> ModelError:
    return checkpoint.error(
        f"has the type {dtype_name(info.dtype)}", name, "use a published form: float16, int8 or int4"
    )
