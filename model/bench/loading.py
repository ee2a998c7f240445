"""A process that loads a model and uses it once, and says in JSON how long that took and what memory.

python -m model.bench.loading PATH PROMPT
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from model.types import ModelError

_STEPS = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """seconds: of loading, all modules imported before; peak: resident bytes at most, None where nobody says.

    kv: bytes of all pages of keys and values; file: of the packed file.
    """

    seconds: float
    peak: int | None
    kv: int
    file: int


def load_once(path: Path, prompt: int) -> Loaded:
    """In a fresh process: load, read a prompt, decode a few steps. Raises ModelError."""
    program = [sys.executable, "-m", "model.bench.loading", str(path), str(prompt)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"could not be loaded by itself: {why}", file=path)
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))


def _main(path: Path, prompt: int) -> None:
    from model.bench.network import Network
    from model.language_model import load
    from model.memory import peak
    from model.tensor_file import weight_files

    began = perf_counter()
    model = load(path, device="cpu", max_context=prompt + _STEPS)
    seconds = perf_counter() - began
    subject = Network(model.network, model.storage)
    subject.prefill(prompt)
    subject.decode(1, _STEPS)
    size = sum(file.stat().st_size for file in weight_files(path))
    loaded = Loaded(seconds, peak(), model.pages.nbytes, size)
    sys.stdout.write(json.dumps(asdict(loaded)) + "\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
