"""What `glmbot model info` tells of a folder or file, without reading its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from model import memory
from model.checkpoint import Checkpoint
from model.config import ChatGLMConfig, is_other_family, read_config
from model.kernels.choice import choose
from model.kv_cache import Storage, choose_storage
from model.language_model import choose_device, choose_dtype, unused_weights
from model.loading import Reader, Recipe, estimate, open_source
from model.packed import Layout, Packed, Scheme
from model.sizes import size_text
from model.tokenizer import Tokenizer, find_tokenizer
from model.types import Device, KVType, Quantization

Rows = Iterator[tuple[str, str]]
LAYOUTS: dict[Layout, str] = {
    "rows": "rows: matrices row after row",
    "tiles16": "tiles16: 16 rows side by side, as the CPU's kernels read them",
    "mma16": "mma16: tiles of 16 x 64, as kernels on graphics cards read them",
}


def describe(
    path: Path,
    *,
    device: Device = "auto",
    quantization: Quantization = "int4",
    kv_cache: KVType = "auto",
) -> Rows:
    """Rows of name and text; the memory is what loading it so would take. Raises ModelError like loading."""
    if is_other_family(path):
        yield from _family(path, choose_device(device), quantization)
    else:
        yield from _chatglm(path, choose_device(device), quantization, choose_storage(kv_cache, exact=False))


def scheme_text(scheme: Scheme) -> str:
    """How matrices are stored, in a few words."""
    if scheme.bits is None:
        blocks = "floats"
    else:
        group = "one scale a row" if scheme.group_size is None else f"groups of {scheme.group_size}"
        blocks = f"INT{scheme.bits}, {group}{', zero-points' if scheme.zero else ''}"
    return f"{blocks}; embedding {'INT8' if scheme.head_bits else 'floats'}"


def _chatglm(path: Path, device: torch.device, quantization: Quantization, storage: Storage) -> Rows:
    source = open_source(path)
    dtype = choose_dtype("auto", device)
    reader = Reader(source, Recipe(quantization), dtype)
    config = source.config
    files = [source.file] if isinstance(source, Packed) else source.files
    folder = files[0].parent
    yield "model", "ChatGLM-6B, first generation"
    yield "form", _packed_form(path) if isinstance(source, Packed) else _form(source)
    yield "files", _files(files)
    stored, loaded = scheme_text(reader.stored), scheme_text(reader.scheme)
    yield "weights", stored if stored == loaded else f"{stored} (loaded as {loaded})"
    if isinstance(source, Packed):
        yield "layout", LAYOUTS[source.layout]
    yield (
        "sizes",
        f"{config.num_layers} layers, hidden {config.hidden_size}, {config.num_attention_heads} heads",
    )
    yield "vocabulary", f"{config.vocab_size:,} rows, {_generation(source)}"
    yield "tokenizer", _tokenizer(folder, config)
    yield "context", f"{config.max_sequence_length:,} tokens"
    if config.pre_seq_len:
        yield "prefix", f"{config.pre_seq_len} tokens, prefix_projection {config.prefix_projection}"
    yield from _kernels(device, dtype)
    plan = estimate(reader, dtype=dtype, storage=storage)
    for name, size in plan.parts():
        yield f"memory, {name}", size_text(size)
    yield _available(device)


def _form(source: Checkpoint) -> str:
    kinds = sorted({file.suffix for file in source.files})
    return f"{source.form}, {' and '.join(kinds)}"


def _packed_form(path: Path) -> str:
    unused = unused_weights(path)
    return f"packed ({unused[0].name} beside it is not used)" if unused else "packed"


def _generation(source: Checkpoint | Packed) -> str:
    if isinstance(source, Checkpoint) and ChatGLMConfig.read(source.folder).is_early:
        return "early: image tokens stand before them and are dropped"
    return "slim: without image tokens"


def _tokenizer(folder: Path, config: ChatGLMConfig) -> str:
    if find_tokenizer(folder) is None:
        return "missing: copy ice_text.model here, text needs it"
    tokenizer = Tokenizer(folder)
    tokenizer.check(config)
    return f"{tokenizer.file.name}, {len(tokenizer):,} pieces"


def _files(files: Sequence[Path]) -> str:
    size = size_text(sum(file.stat().st_size for file in files))
    return f"{files[0].name}, {size}" if len(files) == 1 else f"{len(files)} shards, {size}"


def _available(device: torch.device) -> tuple[str, str]:
    free = memory.available(device)
    return f"memory, available on {device.type}", "unknown" if free is None else size_text(free)


def _kernels(device: torch.device, dtype: torch.dtype) -> Rows:
    yield "kernels", str(choose(device, dtype))
    yield "PyTorch", torch.__version__


def _family(folder: Path, device: torch.device, quantization: Quantization) -> Rows:
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from model.family_folder import TOKENIZERS, check_family, weight_bytes
    from model.tensor_file import weight_files

    config = read_config(folder)
    check_family(config, folder)
    size = weight_bytes(folder)
    tokenizer = [name for name in TOKENIZERS if (folder / name).is_file()]
    kind = config["model_type"]
    yield "model", f"{kind}, one request at a time"
    yield "architecture", ", ".join(config.get("architectures") or ["not named"])
    yield "class", f"{MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]} (transformers {__version__})"
    yield "files", _files(weight_files(folder))
    yield "tokenizer", tokenizer[0] if tokenizer else "missing: put tokenizer.json of the model here"
    if quantization != "none":
        yield from _kernels(device, torch.float32)
    yield "memory, weights as stored", size_text(size)
    yield _available(torch.device("cpu"))
