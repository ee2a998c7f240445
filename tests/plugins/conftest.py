"""One real encoder for all tests of plugins: loading it takes longer than most of them."""

from __future__ import annotations

import pytest

from bot import retrieval
from bot.retrieval import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder()


@pytest.fixture(autouse=True)
def _share_the_encoder(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str = "fuse") -> Encoder:
        assert name == "fuse"
        return encoder

    monkeypatch.setattr("bot.app.load_encoder", load)
    monkeypatch.setattr(retrieval, "load_encoder", load)
