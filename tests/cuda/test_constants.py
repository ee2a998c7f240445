"""What Python and the sources of cuda/ each write down is the same."""

from __future__ import annotations

import re

from model import mma_tiles
from model.kernels import fused, mma_linear, sample
from model.kv_cache import PAGE
from model.sampling import BLANK_SCORE
from tests.cuda.emulator import SOURCES

SAME = {
    "pages.cuh": {"HEAD": fused.HEAD_SIZE, "PAGE": PAGE},
    "attn_decode.cu": {"PART": fused.PART},
    "norm.cu": {"NORM_THREADS": fused._NORM_THREADS},
    "sample.cu": {"SAMPLE_THREADS": sample.THREADS, "BLANK_SCORE": BLANK_SCORE},
    "linear.cuh": {
        "LINEAR_THREADS": mma_linear._THREADS,
        "OUTPUTS": mma_linear._OUTPUTS,
        "STEP": mma_linear._STEP,
    },
}


def test_constants_of_the_sources_are_those_of_their_launches() -> None:
    for file, constants in SAME.items():
        source = (SOURCES / file).read_text(encoding="utf-8")
        for name, value in constants.items():
            found = re.search(rf"constexpr (?:int|float) {name} = ([0-9.e]+)f?;", source)
            assert found is not None, name
            assert float(found.group(1)) == value, name
    assert mma_tiles._STEP == mma_linear._STEP
