"""What tests of the native library share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from model.kernels.library import ISA_VARIABLE, Library, NoLibrary, open_library


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """The native library with the best instruction set, before a test and after it.

    Skips only where no compiler could have built it.
    """
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    try:
        opened = open_library()
    except NoLibrary as error:
        if any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
            raise
        pytest.skip(str(error))
    opened.use(opened.isas[0])
    yield opened
    opened.use(opened.isas[0])
