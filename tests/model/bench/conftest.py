"""A tiny random model for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from model import load
from model.bench.random_weights import write
from model.config import ChatGLMConfig
from model.language_model import LanguageModel

TINY = replace(
    ChatGLMConfig(),
    vocab_size=192,
    hidden_size=64,
    num_layers=2,
    num_attention_heads=4,
    inner_hidden_size=256,
    max_sequence_length=256,
    bos_token_id=164,
    eos_token_id=165,
    mask_token_id=160,
    gmask_token_id=161,
)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """The command sends logs to a stream that ends with its test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its packed file lies."""
    return write(tmp_path_factory.mktemp("random"), TINY).parent


@pytest.fixture(scope="session")
def tiny(folder: Path) -> Iterator[LanguageModel]:
    """The model, loaded."""
    model = load(folder, device="cpu")
    yield model
    model.close()
