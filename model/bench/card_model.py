"""A whole ChatGLM-6B of random weights on a graphics card, beside float16 and beside the original's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

from model.bench.card_kernels import clear, random_mma
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.decoder import Decoder, Step
from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from model.kernels.mma_linear import MmaLinear
from model.kernels.reference import Reference
from model.kv_cache import KVCache, Storage, page_count
from model.mma_tiles import MmaWeight
from model.reading import Split
from model.sampling import Sampler
from model.types import GenerationParams
from model.weights import Block, Linear, Matrix, Norm, Weights, tensor_bytes

SUBJECTS = ("glmbot int4", "float16", "original int4")
"""Ours; the same network over float16 weights by cuBLAS, in graphs too; every matrix expanded to float16
before it is multiplied, launch by launch, as the published code does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: answers of a step, tokens before it, how many steps; tokens of prompts."""

    batches: tuple[int, ...] = (1, 4, 8, 16, 32, 50)
    context: int = 512
    steps: int = 32
    prompts: tuple[int, ...] = (128, 512, 2048)
    storage: Storage = "int8"
    subjects: tuple[str, ...] = SUBJECTS


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second of all answers, or of a prompt; seconds of a step, and bytes that it had to read."""

    subject: str
    name: str
    tokens_per_second: float
    step_seconds: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Original(Reference):
    """The published way: the whole matrix in float16 for every product."""

    mma: MmaLinear = field(kw_only=True)
    name: str = "original"

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """Expanded, then multiplied."""
        floats = self.mma.dequantize(weight) if isinstance(weight, MmaWeight) else weight
        return Reference.linear(self, x, floats, bias, gelu=gelu)

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        """The same row by row."""
        if isinstance(table, MmaWeight):
            return self.mma.embed(ids, table)
        return Reference.embed(self, ids, table)


def random_weights(config: ChatGLMConfig, device: torch.device, *, quantized: bool) -> Weights:
    """INT4 in groups of 64 with an INT8 head in MMA tiles, or float16."""

    def matrix(out: int, columns: int, bits: int = 4) -> Matrix:
        if quantized:
            return random_mma(bits, 64 if bits == 4 else columns, out, columns, device)
        return torch.empty(out, columns, dtype=torch.float16, device=device).normal_(0, columns**-0.5)

    def vector(size: int, value: float) -> Tensor:
        return torch.full((size,), value, dtype=torch.float16, device=device)

    def linear(out: int, columns: int) -> Linear:
        return Linear(matrix(out, columns), vector(out, 0))

    hidden, inner = config.hidden_size, config.inner_hidden_size

    def norm() -> Norm:
        return Norm(vector(hidden, 1), vector(hidden, 0))

    def block() -> Block:
        return Block(
            norm(),
            linear(3 * hidden, hidden),
            linear(hidden, hidden),
            norm(),
            linear(inner, hidden),
            linear(hidden, inner),
        )

    blocks = tuple(block() for _ in range(config.num_layers))
    return Weights(matrix(config.vocab_size, hidden, 8), blocks, norm())


class Subject:
    """One way of running the network, whose steps and prompts are timed."""

    def __init__(self, name: str, launcher: Launcher, config: ChatGLMConfig, device: torch.device) -> None:
        self.name = name
        weights = random_weights(config, device, quantized=name != "float16")
        fused = Fused(launcher, device)
        original = name == "original int4"
        operations = Original(torch.float16, mma=MmaLinear(launcher, device)) if original else fused
        self._fused = None if original else fused
        self._network = ChatGLM(config, weights, operations)
        self._nbytes = tensor_bytes(weights)
        if self._fused is not None:
            self._fused.prepare_kernels(weights, "int8")

    def decode(self, batch: int, plan: Plan) -> Rate:
        """Steps of answers with `plan.context` tokens each, none of which share pages."""
        network, context, steps = self._network, plan.context, plan.steps
        pages = network.new_pages(batch * page_count(context + steps), self._storage(plan))
        clear(pages)
        caches = [KVCache(pages) for _ in range(batch)]
        for cache in caches:
            cache.reserve(context + steps)
            cache.length, cache.mask_position = context, context - 1
        step = self._stepper(caches, context + steps)
        times = [_timed(step, network.device) for _ in range(steps)]
        seconds = median(times[len(times) // 4 :])
        kv = batch * context * pages.nbytes // (pages.count * 16)
        return Rate(self.name, f"batch {batch} x {context}", batch / seconds, seconds, self._nbytes + kv)

    def prefill(self, tokens: int, plan: Plan) -> tuple[Rate, float]:
        """A prompt, and seconds until its answer has a first token."""
        network = self._network
        config = network.config
        ids = torch.randint(20, config.mask_token_id, (tokens - 1,)).tolist()
        split = Split([*ids, config.gmask_token_id], [config.bos_token_id], tokens - 1)
        cache = KVCache(network.new_pages(page_count(tokens + 2), self._storage(plan)))
        seconds, first = list[float](), list[float]()
        for _ in range(4):
            cache.close()
            read = _timed(lambda: network.prefill([split], [cache]), network.device)
            step = self._stepper([cache], tokens + 2)
            first.append(read + _timed(step, network.device))
            seconds.append(read)
        reading = median(seconds[1:])
        rate = Rate(self.name, f"prompt of {tokens}", tokens / reading, reading, self._nbytes)
        return rate, median(first[1:])

    def _storage(self, plan: Plan) -> Storage:
        """The original keeps keys and values in float16; to expand them as well would be unfair to it."""
        return plan.storage if self._fused is not None else "float16"

    def _stepper(self, caches: Sequence[KVCache], longest: int) -> Callable[[], object]:
        """What makes a step."""
        network = self._network
        samplers = [Sampler(GenerationParams(seed=seed)) for seed in range(len(caches))]
        if self._fused is None:

            def launch_by_launch() -> None:
                logits = network.decode([20] * len(caches), caches)
                functional.softmax(logits, -1).argmax(-1).tolist()

            return launch_by_launch
        decoder = Decoder(network, self._fused, caches[0].pages, limit=None, longest=longest + 1)
        rows = [(cache, sampler, [20]) for cache, sampler in zip(caches, samplers, strict=True)]
        return lambda: decoder.step([Step(20, *row) for row in rows])


def measure(
    launcher: Launcher,
    config: ChatGLMConfig,
    device: torch.device,
    plan: Plan,
    too_large: Callable[[str], None],
) -> Iterator[tuple[Rate, float | None]]:
    """Every subject after the other, so that only one's weights are there; with prompts, time to a token.

    too_large: is told which subject the card has no room for (any more); the others are measured still.
    """
    for name in plan.subjects:
        try:
            yield from _of_subject(Subject(name, launcher, config, device), plan)
        except torch.OutOfMemoryError:
            too_large(name)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _of_subject(subject: Subject, plan: Plan) -> Iterator[tuple[Rate, float | None]]:
    for batch in plan.batches:
        yield subject.decode(batch, plan), None
    for tokens in plan.prompts:
        yield subject.prefill(tokens, plan)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    began = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - began
