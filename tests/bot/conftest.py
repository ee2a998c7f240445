"""Fixtures for tests of the command line and of what stands behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from bot.cli import app

Glmbot = Callable[..., Result]
PLAIN = "plugins: {faq: {enabled: false}, knowledge: {enabled: false}}\n"


@pytest.fixture
def fresh_logs() -> Iterator[None]:
    """Give the logs back as they were: commands configure them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def glmbot(fresh_logs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Glmbot:
    """Runs a command line in an empty folder with a small config.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLMBOT_DEBUG", raising=False)
    (tmp_path / "config.yaml").write_text(PLAIN, "utf-8")

    def call(*words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=input, prog_name="glmbot")

    return call
