"""What a model needs, what there is, and the refusal between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model import memory
from model.config import ChatGLMConfig
from model.kv_cache import Storage
from model.packed import Scheme
from model.types import ModelError

CPU = torch.device("cpu")
FULL = ChatGLMConfig()
FLOATS = Scheme(bits=None, group_size=None, head_bits=None)


def half(_: str) -> torch.dtype:
    return torch.float16


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def system(root: Path, gib: int) -> None:
    write(root / "proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {gib << 20} kB\n")


def test_weights_of_the_true_size() -> None:
    """6,173,286,400 parameters are published; INT4 of the default scheme fits into 3.6 GB."""
    assert memory.weight_bytes(FULL, FLOATS, half) == 2 * 6_173_286_400
    assert 3.4e9 < memory.weight_bytes(FULL, Scheme(), half) < 3.6e9


def test_weights_count_each_tensor_as_stored() -> None:
    def norms_wide(name: str) -> torch.dtype:
        return torch.float32 if "layernorm" in name else torch.float16

    more = memory.weight_bytes(FULL, FLOATS, norms_wide) - memory.weight_bytes(FULL, FLOATS, half)
    assert more == 466_944 * 2  # as the published index has it


@pytest.mark.parametrize(
    ("storage", "token"), [("float32", 917_504), ("float16", 458_752), ("int8", 232_960), ("int4", 121_856)]
)
def test_cache_is_counted_in_pages_of_its_storage(storage: Storage, token: int) -> None:
    def cache(context: int) -> int:
        return memory.plan(FULL, 0, dtype=torch.float16, storage=storage, context=context).kv_cache

    assert cache(2048) == 2048 * token
    assert cache(1) == cache(16) == 16 * token
    assert cache(17) == 32 * token


def test_table_names_every_part() -> None:
    assert list(memory.MemoryPlan(3000, 1000, 500, 2048, "int8").parts()) == [
        ("weights", 3000),
        ("KV cache of 2,048 tokens, int8", 1000),
        ("workspace", 500),
        ("total", 4500),
    ]


def test_refusal_has_figures_and_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 4 * 10**9)
    plan = memory.MemoryPlan(3 * 10**9, 10**9, 5 * 10**8, 2048, "float16")
    with pytest.raises(ModelError) as caught:
        memory.check(plan, CPU, file=Path("model"))
    for part in ("4.50 GB", "weights 3.00 GB", "KV cache 1.00 GB", "workspace 500.00 MB", "4.00 GB are"):
        assert part in caught.value.problem
    assert "max_context" in str(caught.value)
    assert caught.value.file == Path("model")


@pytest.mark.parametrize("free", [None, 9 << 29])
def test_enough_or_unknown_memory_passes(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    monkeypatch.setattr(memory, "available", lambda device: free)
    memory.check(memory.MemoryPlan(3 << 30, 1 << 30, 1 << 29, 2048, "float16"), CPU)


def test_this_machine_has_memory() -> None:
    free = memory.available(CPU)
    assert free is None or free > 1 << 20


def test_system_without_groups(tmp_path: Path) -> None:
    system(tmp_path, 8)
    assert memory.available(CPU, root=tmp_path) == 8 << 30


def test_nothing_known(tmp_path: Path) -> None:
    assert memory.available(CPU, root=tmp_path) is None


def test_limit_of_group_version_2(tmp_path: Path) -> None:
    """The least of all levels counts, and cached files can be given back."""
    system(tmp_path, 8)
    write(tmp_path / "proc/self/cgroup", "0::/pod/app\n")
    pod = tmp_path / "sys/fs/cgroup/pod"
    write(pod / "memory.max", f"{6 << 30}\n")
    write(pod / "memory.current", f"{3 << 30}\n")
    write(pod / "memory.stat", f"anon 5\nactive_file {1 << 29}\ninactive_file {1 << 29}\n")
    write(pod / "app/memory.max", "max\n")
    write(pod / "app/memory.current", f"{2 << 30}\n")
    assert memory.available(CPU, root=tmp_path) == 4 << 30


def test_limit_of_group_version_1_inside_a_container(tmp_path: Path) -> None:
    """The path is the host's and does not exist here: the mount itself is the group."""
    system(tmp_path, 8)
    write(tmp_path / "proc/self/cgroup", "4:cpu:/docker/abc\n3:memory:/docker/abc\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/memory"
    write(group / "memory.limit_in_bytes", f"{5 << 30}\n")
    write(group / "memory.usage_in_bytes", f"{2 << 30}\n")
    write(group / "memory.stat", f"total_active_file 0\ntotal_inactive_file {1 << 30}\n")
    assert memory.available(CPU, root=tmp_path) == 4 << 30


def test_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "1000\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", "2000\n")
    assert memory.available(CPU, root=tmp_path) == 0
