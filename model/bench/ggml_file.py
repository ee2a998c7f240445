"""A ChatGLM of random weights for chatglm.cpp, in its form of ggml files (its convert.py, version 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.bench.q4_blocks import Q4_0, Entry, linear, norm, pad, write_whole
from model.config import ChatGLMConfig
from model.random_model import train_tokenizer

_MAGIC, _CHATGLM, _VERSION, _ALIGNMENT = b"ggml", 1, 2, 16
_THETA = 10_000.0


def write_ggml(file: Path, config: ChatGLMConfig) -> Path:
    """Write it, with some tokenizer: it wants one. Q4_0 wants hidden sizes of a multiple of 32."""

    def write(stream: BinaryIO) -> None:
        draws, tokenizer = np.random.default_rng(0), train_tokenizer()
        stream.write(_MAGIC + struct.pack("<ii", _CHATGLM, _VERSION) + _sizes(config))
        stream.write(struct.pack("<i", len(tokenizer)) + tokenizer)
        for entry in entries(config):
            name, axes = entry.name.encode(), len(entry.shape)
            stream.write(struct.pack("<i", len(name)) + name)
            stream.write(struct.pack(f"<{axes + 2}i", axes, *entry.shape, entry.kind))
            pad(stream, _ALIGNMENT)
            entry.write(stream, draws)

    return write_whole(file, write)


def entries(config: ChatGLMConfig) -> Iterator[Entry]:
    """All tensors under their official names, in the order of the file."""
    hidden, inner = config.hidden_size, config.inner_hidden_size
    yield Entry("transformer.word_embeddings.weight", (config.vocab_size, hidden))
    for layer in range(config.num_layers):
        block = f"transformer.layers.{layer}"
        yield from norm(f"{block}.input_layernorm", hidden)
        yield from linear(f"{block}.attention.query_key_value", 3 * hidden, hidden)
        yield from linear(f"{block}.attention.dense", hidden, hidden)
        yield from norm(f"{block}.post_attention_layernorm", hidden)
        yield from linear(f"{block}.mlp.dense_h_to_4h", inner, hidden)
        yield from linear(f"{block}.mlp.dense_4h_to_h", hidden, inner)
    yield from norm("transformer.final_layernorm", hidden)


def _sizes(config: ChatGLMConfig) -> bytes:
    return struct.pack(
        "<7ififiii",
        Q4_0,
        config.vocab_size,
        config.hidden_size,
        config.num_attention_heads,
        config.num_attention_heads,
        config.num_layers,
        config.inner_hidden_size,
        config.layernorm_epsilon,
        0,  # tokens of a prefix
        _THETA,
        config.max_sequence_length,
        config.eos_token_id,
        config.pad_token_id,
    )
