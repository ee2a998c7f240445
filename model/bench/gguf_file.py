"""The shapes of a ChatGLM for llama.cpp: GGUF (ggml-org/ggml, docs/gguf.md) with random weights.

llama.cpp has no first-generation ChatGLM. GPT-NeoX without parallel residuals has the same matrices: queries,
keys and values in one, two of the MLP with GELU between, LayerNorms and biases everywhere. Only the rotation
and the tied head differ, and neither takes time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from model.bench.q4_blocks import Entry, linear, norm, pad, write_whole
from model.config import ChatGLMConfig

Value: TypeAlias = int | float | bool | str

_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_UINT32, _FLOAT32, _BOOL, _STRING = 4, 6, 7, 8


def write_gguf(file: Path, config: ChatGLMConfig) -> Path:
    """Write it. Q4_0 wants hidden sizes of a multiple of 32."""

    def write(stream: BinaryIO) -> None:
        draws = np.random.default_rng(0)
        _write_head(stream, list(entries(config)), metadata(config))
        for entry in entries(config):
            pad(stream, _ALIGNMENT)
            entry.write(stream, draws)

    return write_whole(file, write)


def metadata(config: ChatGLMConfig) -> dict[str, Value]:
    """What describes the network; there is no tokenizer."""
    sizes: dict[str, Value] = {
        "context_length": config.max_sequence_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.inner_hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_epsilon": config.layernorm_epsilon,
        "rope.dimension_count": config.head_size,
        "use_parallel_residual": False,
        "vocab_size": config.vocab_size,
    }
    return {
        "general.architecture": "gptneox",
        **{f"gptneox.{name}": value for name, value in sizes.items()},
        "tokenizer.ggml.model": "no_vocab",
    }


def entries(config: ChatGLMConfig) -> Iterator[Entry]:
    """All tensors, in the order of the file."""
    hidden, inner, vocab = config.hidden_size, config.inner_hidden_size, config.vocab_size
    yield Entry("token_embd.weight", (vocab, hidden))
    yield Entry("output.weight", (vocab, hidden))
    yield from norm("output_norm", hidden)
    for layer in range(config.num_layers):
        block = f"blk.{layer}"
        yield from norm(f"{block}.attn_norm", hidden)
        yield from linear(f"{block}.attn_qkv", 3 * hidden, hidden)
        yield from linear(f"{block}.attn_output", hidden, hidden)
        yield from norm(f"{block}.ffn_norm", hidden)
        yield from linear(f"{block}.ffn_up", inner, hidden)
        yield from linear(f"{block}.ffn_down", hidden, inner)


def _write_head(stream: BinaryIO, tensors: list[Entry], fields: dict[str, Value]) -> None:
    stream.write(_MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(fields)))
    for key, value in fields.items():
        stream.write(_text(key) + _typed(value))
    offset = 0
    for tensor in tensors:
        axes = tensor.shape[::-1]  # the fastest comes first
        head = struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, tensor.kind, offset)
        stream.write(_text(tensor.name) + head)
        offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _typed(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    return struct.pack("<I", _STRING) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
