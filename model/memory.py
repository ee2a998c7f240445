"""The memory that a model needs and the memory there is; what cannot fit is refused with figures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import ChatGLMConfig
from model.kv_cache import Storage, page_bytes, page_count
from model.packed import Scheme, tensor_specs
from model.sizes import size_text
from model.types import ModelError


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a loaded model takes.

    weights: also where they are mapped from a packed file, since they must stay in memory to be fast;
    kv_cache: of one talk as long as the context, in pages of `storage`; workspace: what reading a prompt that
    long takes meanwhile.
    """

    weights: int
    kv_cache: int
    workspace: int
    context: int
    storage: Storage

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.workspace

    def parts(self) -> Iterator[tuple[str, int]]:
        """What a table of it shows: name and bytes of each part, and of all."""
        yield "weights", self.weights
        yield f"KV cache of {self.context:,} tokens, {self.storage}", self.kv_cache
        yield "workspace", self.workspace
        yield "total", self.total


def weight_bytes(config: ChatGLMConfig, scheme: Scheme, float_dtype: Callable[[str], torch.dtype]) -> int:
    """Bytes of all parameters; `float_dtype` says which float a stored tensor (NAME.weight_scale ...) is."""
    parameters = tensor_specs(config, scheme).values()
    return sum(spec.nbytes(float_dtype(name)) for specs in parameters for name, spec in specs.items())


def plan(
    config: ChatGLMConfig, weights: int, *, dtype: torch.dtype, storage: Storage, context: int
) -> MemoryPlan:
    """What `weights` bytes of parameters need around them, with activations in `dtype`."""
    hidden, inner = config.hidden_size, config.inner_hidden_size
    page = page_bytes(config.num_layers, config.num_attention_heads, config.head_size, storage)
    kv_cache = page_count(context) * page
    # a layer at work: input, normed input, q, k, v before and after rotation, context; the wide half twice
    activations = context * (10 * hidden + 2 * inner) * dtype.itemsize
    logits = 2 * 4 * config.vocab_size
    return MemoryPlan(weights, kv_cache, activations + logits, context, storage)


def check(plan: MemoryPlan, device: torch.device, *, file: Path | None = None) -> None:
    """Raise ModelError with figures if the model does not fit into what is available."""
    free = available(device)
    if free is None or plan.total <= free:
        return
    problem = (
        f"needs {size_text(plan.total)} (weights {size_text(plan.weights)},"
        f" KV cache {size_text(plan.kv_cache)}, workspace {size_text(plan.workspace)}),"
        f" but only {size_text(free)} are available on {device.type}"
    )
    remedy = "use quantization int4, lower max_context, a smaller kv_cache, or close other programs"
    raise ModelError(problem, file=file, remedy=remedy)


def available(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Bytes that can be taken on a device, None if nobody says.

    On Linux the least of what the system has and what the control groups of this process leave; memory that
    only caches files counts as available. `root`: where /proc and /sys lie.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
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
