"""Other engines as subjects, each in a process of its own Python, on random weights of the same shapes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bench import ggml_file, gguf_file, peer_process
from model.bench.figures import Costs
from model.bench.network import products
from model.bench.q4_blocks import BYTES, COLUMNS, Entry
from model.bench.subject import CONTEXT, PromptTimes
from model.config import ChatGLMConfig
from model.types import ModelError

_PROGRAM = Path(peer_process.__file__)
_END_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer; most: sequences at once. suffix, entries, write: of its file of weights."""

    name: str
    module: str
    suffix: str
    entries: Callable[[ChatGLMConfig], Iterator[Entry]]
    write: Callable[[Path, ChatGLMConfig], Path]
    most: int


KINDS = (
    Kind("llama.cpp", "llama_cpp", "gguf", gguf_file.entries, gguf_file.write_gguf, 64),
    Kind("chatglm.cpp", "chatglm_cpp", "ggml", ggml_file.entries, ggml_file.write_ggml, 1),
)


def missing(kind: Kind, python: str) -> str | None:
    """Why this Python cannot run a peer; None where it can."""
    program = [python, "-c", f"import {kind.module}"]
    try:
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return None
    return f"{kind.module} cannot be imported: {_last(done.stderr)}"


def peer_file(kind: Kind, folder: Path, config: ChatGLMConfig) -> Path:
    """Its file of random weights, written if it is not there: 3.5 GB at the true size."""
    sizes = "-".join(map(str, (config.num_layers, config.hidden_size, config.vocab_size)))
    file = folder / f"random-{sizes}.{kind.suffix}"
    return file if file.is_file() else kind.write(file, config)


class Peer:
    """A running peer. Whatever goes wrong in its process is a ModelError."""

    def __init__(self, kind: Kind, python: str, file: Path, config: ChatGLMConfig, threads: int) -> None:
        self.name = kind.name
        self.most = kind.most
        layer_macs, head_macs = products(config)
        self.costs = Costs(
            config.num_layers,
            sum(entry.nbytes for entry in kind.entries(config) if ".0." in entry.name),
            layer_macs,
            head_macs // COLUMNS * BYTES,
            head_macs,
            2 * 2 * config.hidden_size,
        )
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close
        self._process = subprocess.Popen(
            [python, str(_PROGRAM), kind.name, str(file), str(threads), str(CONTEXT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.version: str = self._answer()["version"]
        except ModelError:
            self.close()
            raise

    def decode(self, batch: int, steps: int) -> float:
        """See `Subject.decode`."""
        [seconds] = self._ask("decode", batch, steps)
        return float(seconds)

    def prefill(self, tokens: int) -> PromptTimes:
        """See `Subject.prefill`."""
        return PromptTimes(*self._ask("prefill", tokens))

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_END_WITHIN)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, what: str, *arguments: int) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({what: arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._broken() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._broken()
        return json.loads(line)

    def _broken(self) -> ModelError:
        self._errors.seek(0)
        return ModelError(f"{self.name} broke off: {_last(self._errors.read())}", remedy="try --no-peers")


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
