"""The configuration of a first-generation ChatGLM, under the names of its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.types import ModelError

IMAGE_TOKENS = 20_000
"""Rows in front of the vocabulary of checkpoints from before 2023-04-06; never used by text."""
EARLY_BOS = 150_004
SLIM_MASK = 130_000
EARLY_IDS = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")
LARGEST = {
    "num_layers": 1_000,
    "num_attention_heads": 10_000,
    "hidden_size": 1_000_000,
    "inner_hidden_size": 10_000_000,
    "vocab_size": 10_000_000,
}
"""A damaged config.json should not make anybody count to a billion."""
CONFIG_NAME = "config.json"
PACKED_NAME = "glmbot.safetensors"
"""The usual name of the project's own file of weights, which holds its configuration as well."""
PACKED_FORMAT = "glmbot-packed"
"""What the metadata of such a file say, whatever its name."""


@dataclass(frozen=True, slots=True)
class ChatGLMConfig:
    """Sizes and special ids; the defaults are those of ChatGLM-6B with its slim vocabulary.

    The defaults inside the published config class are those of the early vocabulary: ids always come from
    config.json (spec/chatglm-6b.md, section 1).
    """

    vocab_size: int = 130_528
    hidden_size: int = 4_096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16_384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2_048
    position_encoding_2d: bool = True
    bos_token_id: int = 130_004
    eos_token_id: int = 130_005
    mask_token_id: int = 130_000
    gmask_token_id: int = 130_001
    pad_token_id: int = 3
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def is_early(self) -> bool:
        """Whether image tokens stand in front of the vocabulary: its first five pieces come after them."""
        return IMAGE_TOKENS <= self.pad_token_id <= IMAGE_TOKENS + 4

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token leaves in the KV cache."""
        return 2 * self.num_layers * self.hidden_size

    def slim(self) -> ChatGLMConfig:
        """The same without image tokens."""
        if not self.is_early:
            return self
        ids = {name: getattr(self, name) - IMAGE_TOKENS for name in EARLY_IDS}
        return replace(self, vocab_size=self.vocab_size - IMAGE_TOKENS, **ids)

    def to_dict(self) -> dict[str, Any]:
        """What config.json says, with the keys by which the first generation is known."""
        return {"model_type": "chatglm", "architectures": ["ChatGLMModel"], **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], file: Path | None = None) -> ChatGLMConfig:
        """Check and take the known keys. Raises ModelError that names the key."""
        known: dict[str, Any] = {}
        for name in ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "bos_token_id"):
            known[name] = _whole(data, name, file)
        bos, pad = known["bos_token_id"], data.get("pad_token_id")
        # before April 2023 config.json named neither the mask tokens nor the padding, or 0 for the latter
        early = bos == EARLY_BOS or (pad is None and IMAGE_TOKENS <= bos < SLIM_MASK)
        usual = {
            "inner_hidden_size": 4 * known["hidden_size"],
            "max_sequence_length": 2_048,
            "eos_token_id": bos + 1,
            "mask_token_id": bos - 4,
            "gmask_token_id": bos - 3,
            "pad_token_id": 3,
        }
        for name, value in usual.items():
            known[name] = _whole(data, name, file) if data.get(name) is not None else value
        if early and known["pad_token_id"] < IMAGE_TOKENS:
            known["pad_token_id"] = IMAGE_TOKENS + 3
        if data.get("pre_seq_len") is not None:
            known["pre_seq_len"] = _whole(data, "pre_seq_len", file)
        epsilon = data.get("layernorm_epsilon", 1e-5)
        if not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
            raise _wrong("layernorm_epsilon", epsilon, file)
        known["layernorm_epsilon"] = float(epsilon)
        for name, flag in (("position_encoding_2d", True), ("prefix_projection", False)):
            known[name] = bool(data.get(name, flag))
        config = cls(**known)
        config._check(file)
        return config

    @classmethod
    def read(cls, folder: Path) -> ChatGLMConfig:
        """The configuration of a checkpoint's folder. Raises ModelError."""
        return cls.from_dict(read_config(folder), folder / CONFIG_NAME)

    def _check(self, file: Path | None) -> None:
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise _wrong(name, getattr(self, name), file)
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ModelError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads"
                " of a multiple of 4",
                file=file,
                remedy="use the config.json that came with the weights",
            )
        for name in EARLY_IDS:
            if getattr(self, name) >= self.vocab_size:
                raise ModelError(
                    f"{name} {getattr(self, name)} lies outside the vocabulary of {self.vocab_size}:"
                    " two generations of the vocabulary are mixed",
                    file=file,
                    remedy="use the config.json that came with the weights",
                )


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, of whatever model. Raises ModelError."""
    file = folder / CONFIG_NAME
    try:
        data = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            "there is no config.json",
            file=folder,
            remedy="name the folder that holds config.json and weights",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read: {error}", file=file, remedy="download it again") from None
    if not isinstance(data, dict):
        raise ModelError("is not a JSON object", file=file, remedy="download it again")
    return data


def is_first_generation(data: Mapping[str, Any]) -> bool:
    """Whether a config.json is a first-generation ChatGLM's, told by its own keys."""
    return "inner_hidden_size" in data or "position_encoding_2d" in data


def is_other_family(path: Path) -> bool:
    """Whether a folder is another model's than a first-generation ChatGLM's, told by its config.json.

    A file never is, nor a folder with a packed file, whatever else lies there. Raises ModelError.
    """
    if not path.is_dir() or packed_file(path) is not None:
        return False
    return not is_first_generation(read_config(path))


def packed_file(path: Path) -> Path | None:
    """The packed file that a path is or, as a folder, holds, whatever state it is in and else lies there.

    It bears the usual name, or it is the only .safetensors of its folder and its metadata say so.
    """
    if not path.is_dir():
        is_one = path.name == PACKED_NAME or _metadata(path).get("format") == PACKED_FORMAT
        return path if is_one else None
    if (path / PACKED_NAME).exists():
        return path / PACKED_NAME
    files = [file for file in path.glob("*.safetensors") if file.is_file()]
    return packed_file(files[0]) if len(files) == 1 else None


def _metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty if it is none; reads the header only."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= 100_000_000 or stream.read(1) != b"{":
                return {}
            header = json.loads(b"{" + stream.read(length - 1))
        metadata = header.get("__metadata__", {})
    except (OSError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _whole(data: Mapping[str, Any], name: str, file: Path | None) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < (1 if "token_id" not in name else 0):
        raise _wrong(name, value, file)
    return value


def _wrong(name: str, value: object, file: Path | None) -> ModelError:
    problem = f"the key {name} is missing" if value is None else f"{name} cannot be {value!r}"
    return ModelError(problem, file=file, remedy="use the config.json that came with the weights")
