"""Runs in a peer's own Python, as a script that knows nothing of glmbot: does what lines of JSON ask for.

python peer_process.py llama.cpp|chatglm.cpp FILE THREADS CONTEXT

The first line that it writes names the version; then for each line {"decode": [batch, steps]} or
{"prefill": [tokens]} comes one with the seconds.
"""

from __future__ import annotations

import json
import os
import random
import sys
from time import perf_counter
from typing import Any, TextIO

TOP_K, TOP_P, TEMPERATURE = 50, 0.7, 0.95
"""As glmbot draws tokens, too."""
VOCABULARY = 1_000
"""Prompts are of the first so many ids."""
MOST = 1_024
"""Tokens of prompt and answer together."""


class LlamaCpp:
    """llama.cpp through the plain functions of llama-cpp-python."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import llama_cpp

        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self._c: Any = llama_cpp
        self._threads = threads
        self._context = context
        self._c.llama_backend_init()
        self._model = self._c.llama_model_load_from_file(file.encode(), self._c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"{file} could not be loaded")
        self._samplers = [self._sampler(seed) for seed in range(64)]

    def decode(self, batch: int, steps: int) -> list[float]:
        """Seconds of the steps together."""
        c = self._c
        context = self._open(self._context + steps, sequences=batch)
        self._run(
            context, [(token, at, 0, False) for at, token in enumerate(self._prompt(self._context - 1))]
        )
        memory = c.llama_get_memory(context)
        for sequence in range(1, batch):
            c.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        tokens = [1] * batch
        began = 0.0
        for step in range(steps + 1):
            if step == 1:  # the first one warms up
                began = perf_counter()
            at = self._context - 1 + step
            self._run(context, [(token, at, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self._draw(context, sequence) for sequence in range(batch)]
        seconds = perf_counter() - began
        c.llama_free(context)
        return [seconds]

    def prefill(self, tokens: int) -> list[float]:
        """Seconds until the prompt is read, and until a token is drawn after it."""
        context = self._open(tokens + 1, sequences=1)
        prompt = self._prompt(tokens)
        began = perf_counter()
        self._run(context, [(token, at, 0, at == tokens - 1) for at, token in enumerate(prompt)])
        read = perf_counter() - began
        self._draw(context, 0, tokens - 1)
        first = perf_counter() - began
        self._c.llama_free(context)
        return [read, first]

    def _open(self, tokens: int, sequences: int) -> Any:
        """A context for sequences of so many tokens each, which share nothing."""
        params = self._c.llama_context_default_params()
        params.n_ctx = sequences * (-(-tokens // 256) * 256)
        params.n_batch = params.n_ubatch = max(512, tokens)
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = False
        context = self._c.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"no context for {sequences} sequences of {tokens} tokens")
        return context

    def _run(self, context: Any, tokens: list[tuple[int, int, int, bool]]) -> None:
        """One pass over (token, position, sequence, whether logits are wanted)."""
        batch = self._c.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        code = self._c.llama_decode(context, batch)
        self._c.llama_synchronize(context)
        self._c.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")

    def _draw(self, context: Any, sequence: int, index: int | None = None) -> int:
        token: int = self._c.llama_sampler_sample(
            self._samplers[sequence], context, sequence if index is None else index
        )
        return token

    def _sampler(self, seed: int) -> Any:
        c = self._c
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        for part in (
            c.llama_sampler_init_top_k(TOP_K),
            c.llama_sampler_init_top_p(TOP_P, 1),
            c.llama_sampler_init_temp(TEMPERATURE),
            c.llama_sampler_init_dist(seed),
        ):
            c.llama_sampler_chain_add(chain, part)
        return chain

    def _prompt(self, tokens: int) -> list[int]:
        return random.Random(tokens).choices(range(VOCABULARY), k=tokens)


class ChatGLMCpp:
    """chatglm.cpp, which takes one sequence and as many threads as it likes."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import chatglm_cpp

        self.version = f"chatglm-cpp {chatglm_cpp.__version__}"
        self._context = context
        self._pipeline = chatglm_cpp._C.Pipeline(file, MOST)
        self._config = chatglm_cpp._C.GenerationConfig(
            max_length=MOST, do_sample=True, top_k=TOP_K, top_p=TOP_P, temperature=TEMPERATURE
        )

    def decode(self, batch: int, steps: int) -> list[float]:
        """Seconds of the steps together."""
        if batch != 1:
            raise ValueError("chatglm.cpp decodes one sequence")
        ids = self._prompt(self._context)
        context = len(ids)
        ids += [self._next(ids, 0, context)]
        ids += [self._next(ids, len(ids) - 1, context)]  # warms up
        began = perf_counter()
        for _ in range(steps):
            ids += [self._next(ids, len(ids) - 1, context)]
        return [perf_counter() - began]

    def prefill(self, tokens: int) -> list[float]:
        """Seconds until a token is drawn after a prompt; both are one to it."""
        prompt = self._prompt(tokens)
        began = perf_counter()
        self._next(prompt, 0, tokens)
        seconds = perf_counter() - began
        return [seconds, seconds]

    def _next(self, ids: list[int], past: int, context: int) -> int:
        token: int = self._pipeline.model.generate_next_token(ids, None, self._config, past, context)
        return token

    def _prompt(self, tokens: int) -> list[int]:
        return random.Random(tokens).choices(range(VOCABULARY), k=tokens)


def main(kind: str, file: str, threads: int, context: int, out: TextIO) -> None:
    """Serve until standard input ends."""
    peer = (LlamaCpp if kind == "llama.cpp" else ChatGLMCpp)(file, threads, context)
    print(json.dumps({"version": peer.version}), file=out, flush=True)
    for line in sys.stdin:
        [(what, arguments)] = json.loads(line).items()
        seconds = peer.decode(*arguments) if what == "decode" else peer.prefill(*arguments)
        print(json.dumps(seconds), file=out, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), answers)
