"""Fixtures of the tests with whole processes."""

from __future__ import annotations

import secrets
from random import Random

import pytest


@pytest.fixture
def chance() -> Random:
    """Random moments, repeatable by the seed that a failed test shows."""
    seed = secrets.randbits(32)
    print(f"seed: {seed}")  # noqa: T201
    return Random(seed)
