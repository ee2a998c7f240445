"""Bugs that are planted into the kernels, each of which the tests on the host must notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cuda.emulator import COMPILER, SOURCES

FOLDER = Path(__file__).parent
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(COMPILER is None, reason="no g++: kernels cannot run on the host"),
]


@dataclass(frozen=True, slots=True)
class Bug:
    """A text of a source that is replaced where it stands first, and the tests that see it."""

    name: str
    source: str
    old: str
    new: str
    tests: str


BUGS = (
    Bug("copies are not waited for", "linear.cuh", "    copy_wait<stages - 2>();\n", "", "linear"),
    Bug(
        "no barrier between copies and their use",
        "linear.cuh",
        "    sync_block();\n    issue(step",
        "    issue(step",
        "linear",
    ),
    Bug(
        "operands of two steps change places",
        "linear.cuh",
        "a[2 * half + i], pair);\n        else",
        "a[2 * half + 1 - i], pair);\n        else",
        "linear",
    ),
    Bug(
        "operands of INT4 change places",
        "linear.cuh",
        "mma(c, a[2 * half + i]",
        "mma(c, a[2 * half + 1 - i]",
        "linear",
    ),
    Bug("the wrong nibble", "linear.cuh", "    codes >>= 8;", "    codes >>= 4;", "linear"),
    Bug(
        "both groups of 32 have one scale",
        "linear.cuh",
        "warp_in * 64 + part * 32)",
        "warp_in * 64)",
        "linear",
    ),
    Bug("the zero-point is added", "linear.cuh", "fused(-zero", "fused(zero", "linear"),
    Bug(
        "the second half of the columns comes too late",
        "linear.cuh",
        "sums[m][i];\n  sync_block();\n  if (warp_in ||",
        "sums[m][i];\n  if (warp_in ||",
        "linear",
    ),
    Bug(
        "the last share is one step short",
        "linear.cuh",
        "least(begin + share, steps)",
        "least(begin + share, steps - 1)",
        "linear",
    ),
    Bug(
        "the page after the right one",
        "attn_decode.cu",
        "begin + token / PAGE)",
        "begin + token / PAGE + 1)",
        "attn_decode",
    ),
    Bug("one token too many is seen", "attn_decode.cu", "+ place < seen", "+ place <= seen", "attn_decode"),
    Bug("sums are not rescaled", "attn_decode.cu", "p.sums[d] *= before;", "p.sums[d] *= 1;", "attn_decode"),
    Bug(
        "warps are merged before all have come",
        "attn_decode.cu",
        "* PARTIAL, lane);\n  sync_block();",
        "* PARTIAL, lane);",
        "attn_decode",
    ),
    Bug(
        "a part that was begun is not merged",
        "attn_decode.cu",
        "divide_up(load(rows + 2 * blockIdx.y + 1), PART)",
        "(load(rows + 2 * blockIdx.y + 1) / PART)",
        "attn_decode",
    ),
    Bug(
        "values have the scales of keys",
        "attn_decode.cu",
        "scales + heads * PAGE + place",
        "scales + place",
        "attn_decode",
    ),
    Bug("rotated the other way", "rope_kv.cu", "u * c - w * s", "u * c + w * s", "rope_kv"),
    Bug("swapped nibbles", "rope_kv.cu", "code | neighbour << 4", "neighbour | code << 4", "rope_kv"),
    Bug(
        "values go where keys are",
        "rope_kv.cu",
        "(slot / PAGE), which, heads",
        "(slot / PAGE), 0, heads",
        "rope_kv",
    ),
    Bug("a warp reads its tile before it is there", "dequant.cu", "  sync_warp();\n", "", "linear"),
    Bug("the residual is subtracted", "norm.cu", "fused(alpha, v.at[j]", "fused(-alpha, v.at[j]", "norm"),
    Bug(
        "sums of warps are read too early",
        "norm.cu",
        "= value;\n  sync_block();\n  float sum",
        "= value;\n  float sum",
        "norm",
    ),
    Bug("the last share is left out", "norm.cu", "share < shares", "share < shares - 1", "norm"),
    Bug(
        "a sum that equals its target ends the search",
        "sample.cu",
        "ballot(upto > target)",
        "ballot(upto >= target)",
        "sample",
    ),
    Bug("the last of equal scores wins", "sample.cu", "if (score > best)", "if (score >= best)", "sample"),
    Bug(
        "rare tokens are left out unasked",
        "sample.cu",
        "if (block_sum(memory, rare) <= cut)",
        "if (true)",
        "sample",
    ),
)


def is_noticed(bug: Bug, folder: Path) -> bool:
    sources = folder / "cuda"
    shutil.copytree(SOURCES, sources)
    source = sources / bug.source
    text = source.read_text(encoding="utf-8")
    assert bug.old in text, f"{bug.source} has changed: {bug.name}"
    source.write_text(text.replace(bug.old, bug.new, 1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", FOLDER / f"test_{bug.tests}.py"],
        env={**os.environ, "GLMBOT_SIMT_SOURCES": str(sources)},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert ".cu does not compile:" not in done.stdout, done.stdout
    return done.returncode == 1


def test_nearly_all_planted_bugs_are_noticed(tmp_path: Path) -> None:
    missed = [bug.name for number, bug in enumerate(BUGS) if not is_noticed(bug, tmp_path / str(number))]
    assert len(BUGS) >= 12
    assert len(missed) <= len(BUGS) // 12, missed
