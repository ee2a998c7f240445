"""What a model needs, what there is, and the refusal between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from model import memory
from model.config import ChatGLMConfig
from model.kv_cache import PAGE, Storage, page_count
from model.packed import Scheme
from model.sizes import size_text
from model.types import ModelError

CPU = torch.device("cpu")
FULL = ChatGLMConfig()
SMALL = ChatGLMConfig(hidden_size=64, num_layers=2, num_attention_heads=4, inner_hidden_size=256)
STORAGES: tuple[Storage, ...] = ("float32", "float16", "int8", "int4")
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


# -- many at once ---------------------------------------------------------------------------

contexts = st.integers(1, 5000)
storages = st.sampled_from(STORAGES)
users_at_once = st.integers(1, 200)
budgets = st.builds(
    memory.Budget,
    config=st.sampled_from([FULL, SMALL]),
    weights=st.integers(0, 8 * 10**9),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    memory=st.integers(0, 40 * 10**9),
    prefixes=st.lists(st.integers(1, 300), max_size=2).map(tuple),
)


@given(budgets, storages, contexts, users_at_once)
def test_a_plan_stays_within_the_memory_or_is_refused(
    budget: memory.Budget, storage: Storage, context: int, users: int
) -> None:
    assert budget.memory is not None
    try:
        plan = budget.plan(storage, context, users)
    except ModelError:
        least = budget.whole(storage, context, users)
        assert least.total - (users - 1) * least.kv_cache // users > budget.memory
        return
    assert plan.total <= budget.memory
    assert plan.reserve >= 0.06 * budget.memory
    talk = page_count(context + max((length % PAGE for length in budget.prefixes), default=0))
    assert talk <= plan.pages <= users * talk
    assert 1 <= plan.fits_users <= users
    full = budget.whole(storage, context, users)
    assert plan.kv_cache * full.pages == full.kv_cache * plan.pages
    if plan.pages < full.pages:  # then not one page more fits
        assert plan.total + full.kv_cache // full.pages > budget.memory


@given(budgets, storages, contexts, users_at_once, st.integers(0, 10**10))
def test_more_memory_never_means_fewer_pages(
    budget: memory.Budget, storage: Storage, context: int, users: int, more: int
) -> None:
    assert budget.memory is not None
    larger = replace(budget, memory=budget.memory + more)

    def pages(budget: memory.Budget) -> int:
        try:
            return budget.plan(storage, context, users).pages
        except ModelError:
            return 0

    assert pages(larger) >= pages(budget)


@given(budgets, storages, contexts)
def test_most_users_fit_and_one_more_does_not(budget: memory.Budget, storage: Storage, context: int) -> None:
    most = budget.most_users(storage, context)
    assert most is not None
    assert not most or budget.holds(budget.whole(storage, context, most))
    assert not budget.holds(budget.whole(storage, context, most + 1))


@given(budgets, storages, contexts, users_at_once)
def test_what_is_named_instead_does_fit(
    budget: memory.Budget, storage: Storage, context: int, users: int
) -> None:
    wanted = budget.whole(storage, context, users)
    assume(not budget.holds(wanted))
    nearest = budget.nearest(wanted)
    refusal = budget.refusal(wanted)
    if nearest is None:
        least = budget.least("int4", min(context, 256))
        assert str(refusal.remedy).startswith(f"at least {size_text(least)} are needed")
        assert least > budget.memory
        for memory_bytes, most in ((budget.memory, 0), (least - 1, 0), (least, 1)):
            assert replace(budget, memory=memory_bytes).most_users("int4", min(context, 256)) == most
        return
    assert str(refusal.remedy).startswith(f"what fits: {nearest}")
    for_all = budget.for_all(wanted)
    if for_all is not None:
        assert budget.holds(for_all)
        assert (for_all.users, for_all.context) == (users, context)
        assert str(refusal.remedy).endswith(str(for_all))
    again = budget.plan(nearest.storage, nearest.context, nearest.users)
    assert again == nearest
    assert again.fits_users == nearest.users <= users
    if budget.most_users(storage, context):
        assert (nearest.storage, nearest.context) == (storage, context)
    elif budget.most_users("int4", context):
        assert nearest.context == context
    else:
        assert nearest.context % 256 == 0
        assert nearest.context < context <= 5000
        assert context - nearest.context <= 256 or not budget.most_users("int4", nearest.context + 256)


def test_a_prefix_takes_pages_and_its_numbers_and_of_each_talk_the_rest_of_a_page() -> None:
    """Its last page, where it is not full, is written on by every talk in a copy of its own."""
    plain, full, begun = (
        memory.Budget(SMALL, 10, torch.float32, 10**9, prefixes).whole("int8", 256, 3)
        for prefixes in ((), (128, 32), (100,))
    )
    page = plain.kv_cache // plain.pages
    numbers = 2 * SMALL.num_layers * SMALL.hidden_size * 4
    assert (plain.pages, full.pages, begun.pages) == (3 * 16, 3 * 16, 3 * 17)
    assert full.total - plain.total == full.prefixes == 10 * page + 160 * numbers
    assert begun.total - plain.total == 3 * page + 7 * page + 100 * numbers
    assert begun.fits_users == 3
    assert "prefixes" in full.figures
    assert "prefixes" not in plain.figures


@pytest.mark.parametrize(("head_bits", "told"), [(8, False), (None, True)])
def test_packing_is_advised_only_where_it_needs_less(head_bits: int | None, told: bool) -> None:
    weights = memory.weight_bytes(FULL, Scheme(head_bits=head_bits), half)
    budget = memory.Budget(FULL, weights, torch.float16, 10**9)
    remedy = str(budget.refusal(budget.whole("float16", 2048, 1)).remedy)
    packed = replace(budget, weights=memory.weight_bytes(FULL, Scheme(), half))
    advice = f"or {size_text(packed.least('int4', 256))} with weights that `glmbot model convert` packed"
    assert (advice in remedy) == told


def test_unknown_memory_gives_pages_for_all() -> None:
    plan = memory.plan(FULL, 10**9, dtype=torch.float16, storage="int8", context=1000, users=50)
    assert (plan.pages, plan.fits_users, plan.reserve) == (50 * 63, 50, 0)
    assert memory.Budget(FULL, 10**9, torch.float16).most_users("int8", 1000) is None


def test_every_answer_of_a_step_adds_logits_and_a_row_of_activations() -> None:
    one, many, most, more = (
        memory.plan(SMALL, 0, dtype=torch.float32, storage="int8", context=64, users=users).workspace
        for users in (1, 11, memory.BATCH, 10**9)
    )
    assert many - one == 10 * (4 * (10 * 64 + 2 * 256) + 8 * SMALL.vocab_size)
    assert most == more


@pytest.mark.parametrize(
    ("gib", "fits", "thousands"),
    [
        (6, (3, 6, 12), (3.5, 6.9, 13.3)),
        (8, (7, 15, 29), (7.9, 15.6, 29.8)),
        (12, (16, 32, 61), (16.7, 32.9, 63.0)),
        (24, (42, 82, 158), (43.1, 84.9, 162)),
        (32, (59, 116, 223), (60.7, 119.6, 229)),
    ],
)
def test_users_and_tokens_on_usual_cards(
    gib: int, fits: tuple[int, ...], thousands: tuple[float, ...]
) -> None:
    """Users of 1,024 tokens and tokens in all, within 5 % of spec/kernels.md (A, memory)."""
    weights = memory.weight_bytes(FULL, Scheme(), half)
    budget = memory.Budget(FULL, weights, torch.float16, gib * 2**30 - memory.CUDA_BYTES)
    for storage, users, tokens in zip(STORAGES[1:], fits, thousands, strict=True):
        most = budget.most_users(storage, 1024)
        assert most is not None
        assert most == pytest.approx(users, rel=0.05, abs=1)
        assert 16 * budget.plan(storage, 1024, most + 1).pages == pytest.approx(1000 * tokens, rel=0.05)


def test_refusal_of_a_context_names_what_fits_instead() -> None:
    """One talk has no room in float16, but in INT8 it has."""
    with pytest.raises(ModelError) as caught:
        memory.plan(FULL, 35 * 10**8, dtype=torch.float16, storage="float16", context=2048, memory=47 * 10**8)
    assert caught.value.remedy == "what fits: 1 user of 2,048 tokens with a KV cache in int8"
    for part in (
        "1 user of 2,048 tokens with a KV cache in fp16",
        "reserve 282.00 MB",
        "4.70 GB are available",
    ):
        assert part in caught.value.problem


def test_table_of_many_users_counts_tokens_and_reserve() -> None:
    plan = memory.plan(SMALL, 10, dtype=torch.float32, storage="int4", context=64, users=3, memory=10**9)
    assert [name for name, _ in plan.parts()] == [
        "weights",
        "KV cache of 192 tokens, int4",
        "workspace",
        "reserve",
        "total",
    ]


# -- what there is --------------------------------------------------------------------------


def test_this_machine_has_memory() -> None:
    free = memory.available(CPU)
    assert free is None or free > 1 << 20


def test_a_card_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    with pytest.raises(ModelError, match=r"are busy or unavailable; .*nvidia-smi"):
        memory.available(torch.device("cuda"))


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
