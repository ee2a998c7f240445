"""Kernels on the host under AddressSanitizer and UndefinedBehaviorSanitizer; all cases in the long tier."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
COMPILER = shutil.which("g++")
KERNELS = ("linear", "attn_decode", "rope_kv", "norm", "sample")
SOME = (
    "linear.py::test_linear_layers[forward-29-4-64-80-640-False]",
    "attn_decode.py::test_attention[forward-lengths2-new2-int8]",
    "rope_kv.py::test_rope_kv[shuffled-5-3-2-int4]",
)


def sanitizer() -> Path | None:
    """The run-time library, which must be there before anything else is."""
    if COMPILER is None or sys.platform != "linux":
        return None
    told = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True)
    library = Path(told.stdout.strip())
    return library.resolve() if library.is_absolute() and library.exists() else None


pytestmark = pytest.mark.skipif(sanitizer() is None, reason="no g++ with AddressSanitizer")


def run(*tests: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *tests],
        env={
            **os.environ,
            "LD_PRELOAD": str(sanitizer()),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:verify_asan_link_order=0",
            "GLMBOT_SIMT_SANITIZE": "1",
        },
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def test_some_cases() -> None:
    run(*(str(FOLDER / f"test_{case}") for case in SOME))


@pytest.mark.long
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_cases(kernel: str) -> None:
    run(str(FOLDER / f"test_{kernel}.py"))
