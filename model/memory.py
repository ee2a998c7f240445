"""The memory that a model needs and the memory there is; what cannot fit is refused with figures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.config import ChatGLMConfig
from model.kernels.mma_linear import EXPANDED, ROWS
from model.kv_cache import PAGE, Storage, page_bytes, page_count
from model.packed import Scheme, tensor_specs
from model.sizes import size_text
from model.types import ModelError

RESERVED = 6
"""Percent of the memory that no plan touches: allocators round up and leave gaps between blocks, and where
the last byte is taken it is the whole process that ends, not one request."""
BATCH = 32
"""Answers in a step: more would make each of them wait longer, and all of them together no faster."""
STEP = 256
"""Tokens by which a context is shortened in search of what fits."""
CUDA_BYTES = 750_000_000
"""Of a graphics card, what CUDA and its libraries take before there is a weight (spec/kernels.md, A)."""
CARD_STEP_BYTES = 25_000_000
"""What steps of the kernels for cards keep: unrounded sums, parts of long contexts, tokens that were seen."""
_STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a loaded model takes.

    weights: also where they are mapped from a packed file, since they must stay in memory to be fast;
    kv_cache: of all `pages`, in `storage`, `of_user` of them for each; prefixes: their pages, and what these
    were made of; workspace: what reading a prompt as long as the context takes
    meanwhile, and a step of as many of the `users` as one takes; reserve: what is left alone of a memory that
    is known.
    """

    weights: int
    kv_cache: int
    workspace: int
    context: int
    storage: Storage
    users: int = 1
    pages: int = 0
    of_user: int = 0
    prefixes: int = 0
    reserve: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.prefixes + self.workspace + self.reserve

    @property
    def fits_users(self) -> int:
        """How many sequences as long as the context have room at once."""
        return self.pages // self.of_user

    @property
    def figures(self) -> str:
        """The parts in one line."""
        reserve = f", reserve {size_text(self.reserve)}" if self.reserve else ""
        prefixes = f", prefixes {size_text(self.prefixes)}" if self.prefixes else ""
        return (
            f"weights {size_text(self.weights)}, KV cache {size_text(self.kv_cache)}{prefixes},"
            f" workspace {size_text(self.workspace)}{reserve}"
        )

    def parts(self) -> Iterator[tuple[str, int]]:
        """What a table of it shows: name and bytes of each part, and of all."""
        tokens = self.context if self.users == 1 else self.pages * PAGE
        yield "weights", self.weights
        yield f"KV cache of {tokens:,} tokens, {self.storage}", self.kv_cache
        if self.prefixes:
            yield "prefixes", self.prefixes
        yield "workspace", self.workspace
        if self.reserve:
            yield "reserve", self.reserve
        yield "total", self.total

    def __str__(self) -> str:
        """For whom there is room."""
        return f"{users_text(self.fits_users, self.context)} with a KV cache in {kv_name(self.storage)}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What can be done with a model in `memory` bytes, None for as many as it takes.

    weights: bytes of its parameters; dtype: of activations; prefixes: tokens of each that stays resident.
    """

    config: ChatGLMConfig
    weights: int
    dtype: torch.dtype
    memory: int | None = None
    prefixes: tuple[int, ...] = ()

    @property
    def batch(self) -> int:
        """Answers in a step at most; floats of 16 bits are a card's, which has no more to read for many."""
        return ROWS if self.dtype == torch.float16 else BATCH

    def whole(self, storage: Storage, context: int, users: int) -> MemoryPlan:
        """With pages for all users, whether they fit or not."""
        config = self.config
        rest = max((length % PAGE for length in self.prefixes), default=0)  # of a page, copied for each talk
        of_user = page_count(context + rest)
        pages = users * of_user
        page = page_bytes(config.num_layers, config.num_attention_heads, config.head_size, storage)
        # a layer at work: input, normed input, q, k, v before and after rotation, context; wide half twice
        row = (10 * config.hidden_size + 2 * config.inner_hidden_size) * self.dtype.itemsize
        batch = min(users, self.batch)
        logits = batch * config.vocab_size * (4 + self.dtype.itemsize)  # as computed, and in float32
        workspace = (context + batch) * row + logits
        if self.dtype == torch.float16:  # a card's
            workspace += EXPANDED + CARD_STEP_BYTES
        numbers = sum(self.prefixes) * config.kv_values_per_token * self.dtype.itemsize
        prefixes = sum(map(page_count, self.prefixes)) * page + numbers
        reserve = 0 if self.memory is None else -(-self.memory * RESERVED // 100)
        return MemoryPlan(
            self.weights, pages * page, workspace, context, storage, users, pages, of_user, prefixes, reserve
        )

    def holds(self, plan: MemoryPlan) -> bool:
        """Whether it fits."""
        return self.memory is None or plan.total <= self.memory

    def plan(self, storage: Storage, context: int, users: int) -> MemoryPlan:
        """With pages for all users, or as many as fit.

        Raises ModelError, which names the nearest that fits, if that is not even one sequence's.
        """
        whole = self.whole(storage, context, users)
        if self.memory is None or whole.total <= self.memory:
            return whole
        page, least = whole.kv_cache // whole.pages, whole.of_user
        pages = (self.memory - whole.total + whole.kv_cache) // page
        if pages < least:
            raise self.refusal(replace(whole, kv_cache=least * page, pages=least))
        return replace(whole, kv_cache=pages * page, pages=pages)

    def most_users(self, storage: Storage, context: int) -> int | None:
        """How many fit at once, each with a sequence as long as the context; None: as many as come."""
        if self.memory is None:
            return None
        begin = self.batch if self.holds(self.whole(storage, context, self.batch)) else 0
        first, second = (self.whole(storage, context, begin + more).total for more in (0, 1))
        return max(0, begin + (self.memory - first) // (second - first))

    def nearest(self, wanted: MemoryPlan) -> MemoryPlan | None:
        """What fits instead, for all its users: fewer, else a smaller storage, else a shorter context."""
        shorter = range((wanted.context - 1) // STEP * STEP, 0, -STEP)
        for context in (wanted.context, *shorter):
            for storage in _STORAGES[_STORAGES.index(wanted.storage) :]:
                most = self.most_users(storage, context)
                users = wanted.users if most is None else min(wanted.users, most)
                if users:
                    return self.plan(storage, context, users)
        return None

    def for_all(self, wanted: MemoryPlan) -> MemoryPlan | None:
        """The same for all users in the first smaller storage that has room."""
        for storage in _STORAGES[_STORAGES.index(wanted.storage) + 1 :]:
            whole = self.whole(storage, wanted.context, wanted.users)
            if self.holds(whole):
                return whole
        return None

    def least(self, storage: Storage, context: int) -> int:
        """Bytes of memory for a single sequence as long as the context, the reserve included."""
        alone = replace(self, memory=None).whole(storage, context, 1).total
        return -(-alone * 100 // (100 - RESERVED))

    def share(self, free: int, storage: Storage, context: int) -> int:
        """What a bot takes of `free` bytes, weights included, where nobody says: half of what they leave.

        More where one talk needs it, as far as there is more.
        """
        return max(self.weights + (free - self.weights) // 2, min(free, self.least(storage, context)))

    def refusal(self, needed: MemoryPlan) -> ModelError:
        """Why it does not fit, and what does."""
        assert self.memory is not None
        fitting = dict.fromkeys(map(str, filter(None, (self.nearest(needed), self.for_all(needed)))))
        problem = (
            f"{size_text(needed.total)} are needed for {needed} ({needed.figures}),"
            f" but only {size_text(self.memory)} are available"
        )
        if fitting:
            return ModelError(problem, remedy=f"what fits: {', or '.join(fitting)}")
        packed = replace(self, weights=weight_bytes(self.config, Scheme(), lambda _: torch.float16))
        least, less = (one.least(_STORAGES[-1], min(needed.context, STEP)) for one in (self, packed))
        remedy = f"at least {size_text(least)} are needed"
        if less < least:
            remedy += f", or {size_text(less)} with weights that `glmbot model convert` packed"
        remedy += ": close other programs, or take a device with more memory"
        return ModelError(problem, remedy=remedy)


def weight_bytes(config: ChatGLMConfig, scheme: Scheme, float_dtype: Callable[[str], torch.dtype]) -> int:
    """Bytes of all parameters; `float_dtype` says which float a stored tensor (NAME.weight_scale ...) is."""
    parameters = tensor_specs(config, scheme).values()
    return sum(spec.nbytes(float_dtype(name)) for specs in parameters for name, spec in specs.items())


def plan(
    config: ChatGLMConfig,
    weights: int,
    *,
    dtype: torch.dtype,
    storage: Storage,
    context: int,
    users: int = 1,
    memory: int | None = None,
) -> MemoryPlan:
    """What `weights` bytes of parameters need around them; see `Budget.plan`. Raises ModelError."""
    return Budget(config, weights, dtype, memory).plan(storage, context, users)


def check(plan: MemoryPlan, device: torch.device, *, file: Path | None = None) -> None:
    """Raise ModelError with figures if the model does not fit into what is available."""
    free = available(device)
    if free is None or plan.total <= free:
        return
    problem = (
        f"needs {size_text(plan.total)} ({plan.figures}),"
        f" but only {size_text(free)} are available on {device.type}"
    )
    remedy = "use quantization int4, lower max_context, a smaller kv_cache, or close other programs"
    raise ModelError(problem, file=file, remedy=remedy)


def users_text(users: int, context: int) -> str:
    """So many users of a context, for people."""
    return f"{users:,} user{'' if users == 1 else 's'} of {context:,} tokens"


def kv_name(storage: Storage) -> str:
    """What options and config.yaml call a storage: fp16 for float16."""
    return storage.replace("float", "fp")


def available(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Bytes that can be taken on a device, None if nobody says.

    On Linux the least of what the system has and what the control groups of this process leave; memory that
    only caches files counts as available. `root`: where /proc and /sys lie. Raises ModelError for a card that
    does not answer.
    """
    if device.type == "cuda":
        try:
            return torch.cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            problem = f"the graphics card cannot be used: {str(error).partition(chr(10))[0]}"
            remedy = "see that nvidia-smi works and no other program keeps it, or set model.device to cpu"
            raise ModelError(problem, remedy=remedy) from error
    if sys.platform == "linux":
        found = [*_of_system(root), *_of_groups(root)]
        return min(found) if found else None
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def peak() -> int | None:
    """The most memory this process has had resident, in bytes; None where nobody says."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _of_system(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """What every control group above this process leaves, of version 1 or 2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        limit, usage, prefix = names
        # in a container the path may be the host's, unknown here: then the mount itself is the group
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            yield from _of_group(folder, limit, usage, prefix)
            if folder == base:
                break


def _of_group(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
    if most.isdecimal() and used.isdecimal():
        statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
        cached = sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield max(0, int(most) - int(used) + cached)


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except OSError:
        return ""
