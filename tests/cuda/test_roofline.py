"""What kernels read, write and compute, counted: once all weights, once all keys, and no more products."""

from __future__ import annotations

import pytest

from tests.cuda.emulator import Emulator
from tests.cuda.roofline import MACHINES, attention_work, linear_work, step_work, tokens_per_second
from tests.cuda.tables import ROOFLINE, in_page, roofline_table
from tests.cuda.test_rope_kv import STORAGES


@pytest.mark.parametrize("rows", [1, 8, 16, 64])
@pytest.mark.parametrize("name", ["query_key_value", "dense_4h_to_h", "head"])
def test_weights_are_read_once_and_multiplied_once(emulator: Emulator, name: str, rows: int) -> None:
    _, counts = linear_work(emulator, name, rows)
    columns, bits = (16_384 if name == "dense_4h_to_h" else 4096), (8 if name == "head" else 4)
    padded = next(count for count in (8, 16, 32, 64) if rows <= count)
    weights, x = 128 * columns * bits // 8, 2 * padded * columns * 2  # two blocks read x
    assert counts.copied == weights + x
    assert counts.mma == 32 * (128 // 16) * (padded // 8) * (columns // 16)
    assert counts.ldmatrix == counts.mma // 2
    # three instructions for eight weights of INT4 are logic and halves: two each
    assert counts.half2 == 128 * columns // 2
    assert counts.logic == 128 * columns // 2
    assert counts.atomic == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("tokens", [16, 256, 528])
def test_keys_and_values_are_read_once(emulator: Emulator, storage: str, tokens: int) -> None:
    _, counts = attention_work(emulator, storage, 1, tokens)  # type: ignore[arg-type]
    size = {"float16": 256, "int8": 128, "int4": 64}[storage]
    parts = -(-tokens // 256)
    beside = counts.loaded - 2 * size * tokens
    scales = {"float16": 0, "int8": 2 * 2 * 8, "int4": 4 * 2 * 4}[storage] * tokens  # each lane loads its own
    query_and_rows = parts * 256 * (256 // (size // 16) + 8)
    tables = 4 * 32 * 8 * parts * 4
    assert scales <= beside <= scales + query_and_rows + tables
    assert counts.shuffle > 0
    assert counts.mma == counts.atomic == 0


def test_consumer_cards_are_bound_by_memory_at_eight_rows(emulator: Emulator) -> None:
    for name in ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "head"):
        for rows in (1, 8):
            work, _ = linear_work(emulator, name, rows)
            for machine in MACHINES[:4]:
                assert work.seconds(machine) == work.by_memory(machine), (name, rows, machine)


def test_attention_leaves_the_issue_slots_of_consumer_cards_room(emulator: Emulator) -> None:
    for storage in STORAGES:
        work, _ = attention_work(emulator, storage, 50, 512)
        for machine in MACHINES[1:4]:
            assert work.by_issue(machine) < (0.75 if storage == "int4" else 0.5) * work.by_memory(machine)


def test_a_step_of_one_answer_is_at_its_limit_what_was_planned(emulator: Emulator) -> None:
    """The bytes of all weights a token: 265 tokens a second on a 3090, 285 on a 4090, 102 on a 3060."""
    work = list(step_work(emulator, 1, 16, "int8"))
    limits = {machine.name: tokens_per_second(work, 1, machine) for machine in MACHINES}
    for name, planned in (("RTX 3060", 102), ("RTX 3090", 265), ("RTX 4090", 285)):
        assert 0.985 * planned < limits[name] < 1.01 * planned


def test_the_table_of_the_page_is_what_was_counted(emulator: Emulator) -> None:
    assert in_page(ROOFLINE) == roofline_table(emulator)
