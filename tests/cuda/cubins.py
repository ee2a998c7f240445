"""What compiled kernels are made of: NVIDIA's disassemblers, which need no card."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_RESOURCES = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\S+?),", re.MULTILINE)
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True, slots=True)
class Resources:
    """Registers of a thread, and bytes of memory: stack and local are where registers spill to."""

    registers: int
    stack: int
    shared: int
    local: int


def tool(name: str) -> str | None:
    """The program of NVIDIA's package, else of the path."""
    found = importlib.util.find_spec("nvidia")
    for folder in [] if found is None else found.submodule_search_locations or []:
        for file in Path(folder).glob(f"*/bin/{name}"):
            return str(file)
    return shutil.which(name)


def resources(cubin: bytes) -> dict[str, Resources]:
    """Of each function, by its lowered name."""
    text = _run("cuobjdump", "--dump-resource-usage", cubin)
    return {name: Resources(*map(int, numbers)) for name, *numbers in _RESOURCES.findall(text)}


def instructions(cubin: bytes) -> dict[str, Counter[str]]:
    """How often each instruction stands in each function: HMMA.16816.F32, LDGSTS.E.BYPASS.LTC128B.128 ..."""
    _, *parts = _SECTION.split(_run("nvdisasm", "-c", cubin))
    return {name: Counter(_INSTRUCTION.findall(text)) for name, text in zip(*[iter(parts)] * 2, strict=True)}


def _run(name: str, option: str, cubin: bytes) -> str:
    program = tool(name)
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, option, file.name], capture_output=True, text=True, check=True).stdout
