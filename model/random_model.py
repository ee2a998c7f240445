"""Makes ChatGLMs of random weights in any published form, so that everything runs without a download."""

from __future__ import annotations

import importlib.resources
import io
import os
import shutil
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

import sentencepiece
import torch
from torch import Tensor

from model.checkpoint import EMBEDDINGS, tensor_shapes
from model.config import ChatGLMConfig
from model.convert import convert
from model.memory import weight_bytes
from model.packed import Scheme
from model.published import Published, PublishedForm
from model.sizes import Progress, check_room
from model.tokenizer import late_pieces
from model.types import ModelError

Size = Literal["tiny", "6b"]
Form = PublishedForm | Literal["packed"]
SIZES: tuple[str, ...] = get_args(Size)
FORMS: tuple[str, ...] = (*get_args(PublishedForm), "packed")

TOKENIZER_NAME = "ice_text.model"
_PIECES = 1_744
"""Pieces of a tiny vocabulary before specials, blanks and bytes; about 1200 are single characters."""
_SAMPLES = ("faq/sample", "knowledge/sample")
_TEXT = "你好，请问有什么可以帮您？\n满 99 元包邮，支持七天无理由退货。\nHello, how can I help you?"
"""Learnt from where the sample files are missing."""
_LOGIT_STD = 4.0
_LIKENESS = 0.02
"""How much of a token is left after the last layer: much, and the tied output only repeats the last token."""
_CHUNK = 1 << 24


def make_random(
    path: Path,
    size: Size = "tiny",
    form: Form = "safetensors",
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a complete folder: config.json and weights and, when tiny, a tokenizer of its own.

    The folder appears whole or not at all; the same seed gives the same tensors in every form. At the true
    size one tensor at a time is in memory. `progress` gets the bytes done and their total.
    What a process that was killed left behind of the same folder is deleted. Raises ModelError where
    something is at `path` already, or the disk is too small.
    """
    if size not in SIZES or form not in FORMS:
        raise ModelError(f"cannot make {size} {form}", remedy=f"choose from {SIZES} and {FORMS}")
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ModelError("is there already", file=path, remedy="name a new or empty folder")
    if path.exists() and path.samefile(
        Path.cwd()
    ):  # it is replaced, and whoever stands in it would stand nowhere
        raise ModelError("is the working directory", file=path, remedy="name a new folder in it")
    partial = path.with_name(f"{_partial_prefix(path)}{os.getpid()}")
    try:
        _delete_stale(path)
        partial.mkdir(parents=True)
        _write(partial, size, form, seed, progress)
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except ModelError as error:  # about a file that nobody will find
        raise ModelError(error.problem, file=path, remedy=error.remedy) from error
    except OSError as error:
        raise ModelError(
            f"cannot be written: {error.strerror}", file=path, remedy="choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_prefix(path: Path) -> str:
    """How the names of folders begin that are to become `path`; the id of the process that writes follows."""
    return f".{path.name}.partial-"


def _delete_stale(path: Path) -> None:
    """Delete what processes that run no more left of `path`."""
    if os.name != "posix" or not path.parent.is_dir():  # elsewhere asking for a process may end it
        return
    for folder in path.parent.iterdir():
        writer = folder.name.removeprefix(_partial_prefix(path))
        if writer != folder.name and writer.isdecimal() and not _runs(int(writer)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process has this id."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return process != os.getpid()


def _write(folder: Path, size: Size, form: Form, seed: int, progress: Progress | None) -> None:
    config, quiet = ChatGLMConfig(), list[int]()
    if size == "tiny":
        model = train_tokenizer()
        (folder / TOKENIZER_NAME).write_bytes(model)
        config, quiet = _tiny(model)
    weights = RandomWeights(config, seed, quiet)
    if form != "packed":
        published = Published(form, config, weights)
        check_room(folder, published.nbytes)
        published.write(folder, progress)
        return
    source = folder / "source"
    source.mkdir()
    published = Published("safetensors", config, weights)
    check_room(folder, published.nbytes + weight_bytes(config, Scheme(), lambda _: torch.float16))
    published.write(source)
    convert(source, folder, progress=progress)
    shutil.rmtree(source)


class RandomWeights:
    """Tensors by official name, float16 normals drawn for each name on its own.

    Standard deviations keep every layer at a size that float16 holds, and let MLPs outweigh the residual:
    the last hidden state hardly looks like the last token, logits have a standard deviation of about 4, and
    texts vary. `quiet` are ids whose logits are small, so that they are hardly ever generated.
    Drawing 6.2 billion values takes about a minute.
    """

    def __init__(self, config: ChatGLMConfig, seed: int, quiet: Collection[int] = ()) -> None:
        self._shapes = tensor_shapes(config)
        self._seed = seed
        self._quiet = list(quiet)
        hidden, inner = config.hidden_size, config.inner_hidden_size
        alpha = 56**0.5
        block = alpha * (_LIKENESS ** (-2 / config.num_layers) - 1) ** 0.5
        self._std = {
            EMBEDDINGS: _LOGIT_STD / hidden**0.5,
            "query_key_value.weight": 1.5 / hidden**0.5,
            "attention.dense.weight": alpha / (1.5 * hidden**0.5),
            "dense_h_to_4h.weight": 1 / hidden**0.5,
            "dense_4h_to_h.weight": block / (0.65 * inner**0.5),  # 0.65: root mean square of gelu(normal)
        }

    def __call__(self, name: str) -> Tensor:
        """The tensor, of its logical shape."""
        tensor = torch.empty(self._shapes[name], dtype=torch.float16)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {name}".encode()))
        std = next((std for end, std in self._std.items() if name.endswith(end)), 0.1)
        values = tensor.view(-1)
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            part.copy_(torch.randn(len(part), generator=generator).mul_(std))
        if name.endswith("dense_4h_to_h.weight"):
            tensor -= tensor.mean(
                dim=1, keepdim=True
            )  # gelu has a positive mean, which all tokens would share
        if name.endswith("layernorm.weight"):
            tensor += 1
        if name == EMBEDDINGS:
            tensor[self._quiet] *= 0.1
        return tensor


def train_tokenizer() -> bytes:
    """A SentencePiece model like the published one, learnt from the sample files in a moment.

    Unigrams over nmt_nfkc with single digits; <n> at 4; after the normal pieces the specials, tab, blanks and
    bytes (spec/chatglm-6b.md, section 6).
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in _sample_text().splitlines() if line.strip()]),
        model_writer=model,
        model_type="unigram",
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        split_digits=True,
        pad_id=3,
        user_defined_symbols=["<n>"],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue() + late_pieces()


def _sample_text() -> str:
    try:
        root = importlib.resources.files("plugins")
    except ModuleNotFoundError:
        return _TEXT
    folders = [root.joinpath(folder) for folder in _SAMPLES]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()]
    texts = [file.read_text("utf-8") for file in sorted(files, key=lambda file: file.name)]
    return "\n".join(texts) or _TEXT


def _tiny(model: bytes) -> tuple[ChatGLMConfig, list[int]]:
    """A configuration around a tokenizer, and the ids that spoil a text: specials, blanks, bytes, padding."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab_size = (len(pieces) + 16 + 63) // 64 * 64
    config = ChatGLMConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        num_layers=3,
        num_attention_heads=4,
        inner_hidden_size=256,
        bos_token_id=pieces.piece_to_id("<sop>"),
        eos_token_id=pieces.piece_to_id("<eop>"),
        mask_token_id=pieces.piece_to_id("[MASK]"),
        gmask_token_id=pieces.piece_to_id("[gMASK]"),
        pad_token_id=pieces.piece_to_id("<pad>"),
    )
    # [MASK] is the first of the pieces behind those of text
    quiet = [*range(config.pad_token_id + 1), *range(config.mask_token_id, vocab_size)]
    quiet.remove(config.eos_token_id)
    return config, quiet
