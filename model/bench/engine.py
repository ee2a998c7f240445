"""What the engine adds to the model, takes from it, and gives to each of many users."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from model.bench.crowd import Crowd, percentile, rate, rounds_waited
from model.bench.network import Network
from model.bench.probe import cpu_name
from model.bench.report import Target, table, target_cells
from model.chatglm import ChatGLM
from model.engine import Engine
from model.kv_cache import KVCache, Storage, page_bytes, page_count
from model.language_model import LanguageModel
from model.runner import ROWS, Answer, ChatGLMRunner, Outcome
from model.scheduler import Limits

USERS = 50
PAGES = 1024
LIMITS = Limits(PAGES, answering=64, batch=32, waiting=1000, of_user=100, wait=1e9)
BATCHES = (16, 32)
LONG = 1024
ANSWER = 40
"""Tokens of those that are timed together: all of them are at work for most of that."""
BARE_STEPS = 8
ROUNDS = 3
STUB_STEPS = 1000
STUB_ROUNDS = 10
STEADY = 3.0
"""Seconds that an answer is alone."""


@dataclass(slots=True)
class Findings:
    """What is wanted, with what was found; notes for what has no bound."""

    title: str
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        return [
            self.title,
            "",
            *table([target_cells(target) for target in self.targets]),
            *(f"- {note}" for note in self.notes),
        ]

    def write(self, file: Path) -> None:
        """As JSON."""
        targets = [{**asdict(target), "met": target.met} for target in self.targets]
        found = {"benchmark": "engine", "title": self.title, "targets": targets, "notes": self.notes}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


class Endless(ChatGLMRunner):
    """Answers go on to the length that was asked for, whatever is drawn."""

    @property
    def end(self) -> int:
        """No token."""
        return -1


class Stub(Endless):
    """A model that takes no time: what is left of a turn is the engine's."""

    def __init__(self, network: ChatGLM, pages: int) -> None:
        super().__init__(network, pages=pages, storage="int4")
        self.full = list[float]()
        """When a step of all users was made."""

    def decode(self, answers: Sequence[Answer]) -> list[Outcome]:
        """The same token for everyone."""
        if len(answers) == USERS:
            self.full.append(perf_counter())
        return [17] * len(answers)


async def measure(model: LanguageModel, fairness: float, say: Callable[[str], None]) -> Findings:
    """Everything; fairness: seconds for which users ask anew whenever they are answered."""
    gc.collect()
    gc.freeze()  # as every server does once it has loaded
    network, storage = model.network, model.storage
    layers = network.config.num_layers
    found = Findings(f"{cpu_name()}: {model.name}, {layers} layers, {model.kernels}")
    say("overhead")
    took = await overhead(model)
    found.targets.append(Target("engine: a step of 50 answers, model stubbed", took, "<=", 150, "us"))
    for batch in BATCHES:
        say(f"batch {batch}")
        rounds = [await beside_bare(model, batch) for _ in range(ROUNDS)]
        share = median(100 * through / alone for through, alone in rounds)
        found.targets.append(Target(f"{batch} answers: share of the bare batch", share, ">=", 90, "%"))
        told = ", ".join(f"{through:.1f} of {alone:.1f}" for through, alone in rounds)
        found.notes.append(f"{batch} answers, tok/s through the engine of bare ones: {told}")
    say("a long prompt beside an answer")
    steady, sliced = await beside(model)
    _, whole = await beside(model, LONG)
    found.targets.append(
        Target(f"gap p99 while {LONG} tokens are read", sliced / (steady or 1), "<=", 3, "x")
    )
    found.notes.append(
        f"steady gap {1e3 * steady:.0f} ms; {whole / steady:.1f} x with whole half layers for slices"
    )
    say(f"{USERS} users at once")
    async with crowd(Endless(network, pages=PAGES, storage=storage), model) as people:
        heard = await people.together(USERS, 64, 32)
        complete = sum(len(one.tokens) == 32 for one in heard)
        found.targets.append(Target(f"{USERS} users, 64 and 32 tokens: answered", complete, ">=", USERS, ""))
        found.targets.append(Target("longest wait, in rounds", rounds_waited(heard), "<=", 1.5, ""))
        took = max(one.tokens[-1] for one in heard) - min(one.asked for one in heard)
        found.notes.append(f"{USERS} users with 64 and 32 tokens: {took:.0f} s")
        if fairness:
            say("fairness")
            indices = await people.backlogs(USERS, 16, 200, fairness)
            if indices:
                found.targets.append(Target("Jain's index in the worst 30 s", min(indices), ">=", 0.9, ""))
    found.targets += kv_targets(model)
    say("small keys and values")
    small: tuple[Storage, ...] = ("int8", "int4")
    for one in small:
        found.notes.append(f"{one} KV: {divergence(model, one):.1e} nats from float16")
    return found


async def overhead(model: LanguageModel) -> float:
    """Microseconds from one step with 50 answers to the next, what their askers hear included."""
    pages = USERS * page_count(4 + STUB_STEPS)
    limits = Limits(pages, answering=64, batch=64, waiting=100, wait=1e9)
    seconds, steps = 0.0, 0
    for _ in range(STUB_ROUNDS):
        stub = Stub(model.network, pages)
        async with crowd(stub, model, limits) as people:
            await people.together(USERS, 4, STUB_STEPS)
        seconds += stub.full[-1] - stub.full[0]
        steps += len(stub.full) - 1
    return 1e6 * seconds / steps


async def beside_bare(model: LanguageModel, batch: int) -> tuple[float, float]:
    """Tokens a second of so many answers, and of bare steps before and after: machines change their pace."""
    bare, times = Network(model.network, model.storage), list[float]()
    bare.decode(batch, 1)
    times.append(bare.decode(batch, BARE_STEPS))
    async with crowd(Endless(model.network, pages=PAGES, storage=model.storage), model) as people:
        through = rate(await people.together(batch, 16, ANSWER))
    times.append(bare.decode(batch, BARE_STEPS))
    return through, 2 * BARE_STEPS * batch / sum(times)


async def beside(model: LanguageModel, rows: int = ROWS) -> tuple[float, float]:
    """The steady gap of an answer, and the 99th percentile of its gaps while a long prompt is read."""
    runner = Endless(model.network, pages=PAGES, storage=model.storage, rows=rows)
    async with crowd(runner, model) as people:
        answer = asyncio.create_task(people.ask("first", 16, 400))
        await asyncio.sleep(STEADY)
        begin = perf_counter()
        long = await people.ask("second", LONG, 2)
        end = long.tokens[0]
        first = len(people.log)
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        times = [at for user, at in people.log[:first] if user == "first"]
    before = [later - earlier for earlier, later in pairwise(times) if later <= begin]
    during = [later - earlier for earlier, later in pairwise(times) if begin < later <= end]
    return median(before or [0.0]), percentile(during or [0.0], 0.99)


@asynccontextmanager
async def crowd(runner: ChatGLMRunner, model: LanguageModel, limits: Limits = LIMITS) -> AsyncIterator[Crowd]:
    """Askers of an engine that is closed in the end."""
    engine = Engine(runner, limits)
    try:
        yield Crowd(engine, model.config)
    finally:
        await engine.close()


def kv_targets(model: LanguageModel) -> list[Target]:
    """Bytes of a token in the small storages."""
    config = model.config
    most: dict[Storage, float] = {"int8": 233_000, "int4": 122_000}
    return [
        Target(
            f"{storage} KV: bytes a token, 28 layers",
            page_bytes(28, config.num_attention_heads, config.head_size, storage) / 16,
            "<=",
            bound,
            "B",
        )
        for storage, bound in most.items()
    ]


def divergence(model: LanguageModel, storage: Storage) -> float:
    """KL divergence of the next token's distribution from that over float16 keys and values, in nats."""
    rows = [_distribution(model, one) for one in ("float16", storage)]
    likely = rows[0].exp()
    return float((likely * (rows[0] - rows[1])).nansum(-1).mean())


def _distribution(model: LanguageModel, storage: Storage) -> torch.Tensor:
    """Log probabilities after a prompt and each token of an answer, without those that were read.

    The output matrix is the embedding: a network that was never trained is sure to repeat its input.
    """
    network, config = model.network, model.config
    cache = KVCache(network.new_pages(page_count(128), storage))
    words = torch.randint(0, config.mask_token_id, (72,), generator=torch.Generator().manual_seed(0)).tolist()
    ids, answer = [*words[:64], config.gmask_token_id, config.bos_token_id], words[64:]
    logits = [network.begin([ids], [cache]), *(network.decode([token], [cache]) for token in answer)]
    rows = torch.cat(logits).double()
    rows[:, ids + answer] = -torch.inf
    return rows.log_softmax(-1)
