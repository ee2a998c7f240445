"""The tables of docs/kernels.md: what the compiler made, and how fast cards can be at what was counted.

`.venv/bin/python -m tests.cuda.tables` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from model.bench.card_kernels import SHAPES
from model.kv_cache import Storage
from tests.cuda.compiled import compiled, count
from tests.cuda.emulator import Emulator
from tests.cuda.instances import ARCHS, occupancy, plan
from tests.cuda.roofline import (
    MACHINES,
    Machine,
    Work,
    attention_work,
    linear_work,
    step_work,
    tokens_per_second,
)

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
COMPILED, ROOFLINE = "table", "roofline"
_SHOWN = {
    "linear_sums<4, false, false, 1, 3>": "`linear_sums`, INT4, up to 8 rows",
    "linear_sums<4, false, false, 2, 3>": "`linear_sums`, 16 rows",
    "linear_sums<4, false, false, 4, 3>": "`linear_sums`, 32 rows",
    "linear_sums<4, false, false, 8, 2>": "`linear_sums`, 64 rows",
    "linear_sums<4, true, true, 1, 3>": "`linear_sums`, groups of 32 with zero-points, 8 rows",
    "linear_gelu<4, false, false, 1, 3>": "`linear_gelu`, 8 rows",
    "head_logits<1, 3>": "`head_logits`, 8 rows",
    "head_logits<8, 2>": "`head_logits`, 64 rows",
    "attn_decode<0>": "`attn_decode`, float16",
    "attn_decode<1>": "`attn_decode`, int8",
    "attn_decode<2>": "`attn_decode`, int4",
    "attn_combine": "`attn_combine`",
    "rope_kv<1>": "`rope_kv`, int8",
    "layer_norm": "`layer_norm`",
    "sample": "`sample`",
    "dequantize<4, false>": "`dequantize`, INT4",
}
_STORAGES: tuple[Storage, ...] = ("float16", "int8", "int4")
_CONTEXT = 512
_ROWS = (1, 16, 64)
_STEPS = (1, 8, 16, 32, 50)


def compiled_table() -> list[str]:
    """Registers and blocks a multiprocessor for each kind of card, and instructions on sm_86."""
    head = ["kernel", "shared memory", *(f"sm_{arch}" for arch in ARCHS), "HMMA, LDSM, LDGSTS, LDG.128"]
    return list(_lines([head, *_compiled_rows()]))


def roofline_table(emulator: Emulator) -> list[str]:
    """What bounds a launch, and tokens a second at the limit."""
    head = ["launch", "MB", *(machine.name for machine in MACHINES)]
    rows = [
        _work_row(f"{name}, {count} rows", linear_work(emulator, name, count)[0])
        for name, count in _launches()
    ]
    for storage in _STORAGES:
        work, _ = attention_work(emulator, storage, 50, _CONTEXT)
        rows.append(_work_row(f"attention {storage}, 50 x {_CONTEXT}", work))
    for answers in _STEPS:
        work_of_step = list(step_work(emulator, answers, _CONTEXT, "int8"))
        rates = (f"{tokens_per_second(work_of_step, answers, machine):,.0f} tok/s" for machine in MACHINES)
        read = sum(times * one.bytes for times, one in work_of_step)
        rows.append([f"**a step of {answers} x {_CONTEXT}**", f"{read / 1e6:,.0f}", *rates])
    return list(_lines([head, *rows]))


def in_page(name: str) -> list[str]:
    """The lines of a table as they stand in the page."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"<!-- {name}: begin -->\n")[2].partition(f"<!-- {name}: end -->")[0].splitlines()


def _compiled_rows() -> Iterator[list[str]]:
    for kernel, name in _SHOWN.items():
        cells = list[str]()
        for arch in ARCHS:
            here = kernel if arch >= 80 else _on_turing(kernel)
            used, _ = compiled(arch)
            fit = occupancy(used[here].registers, plan(here, arch), arch)
            cells.append(f"{used[here].registers} x {fit}")
        made = compiled(86)[1][kernel]
        counts = (count(made, "HMMA"), count(made, "LDSM"), count(made, "LDGSTS"), count(made, "LDG", "128"))
        yield [name, f"{plan(kernel, 86).shared:,}", *cells, ", ".join(map(str, counts))]


def _on_turing(kernel: str) -> str:
    """Two stages, where nothing is copied ahead."""
    return kernel.replace(", 3>", ", 2>") if kernel.startswith(("linear", "head")) else kernel


def _launches() -> Iterator[tuple[str, int]]:
    for name in (*SHAPES, "head"):
        yield from ((name, rows) for rows in _ROWS)


def _work_row(name: str, work: Work) -> list[str]:
    return [name, f"{work.bytes / 1e6:,.1f}", *(_bound(work, machine) for machine in MACHINES)]


def _bound(work: Work, machine: Machine) -> str:
    """Microseconds, and what they are spent on."""
    times = {
        "memory": work.by_memory(machine),
        "products": work.by_tensor(machine),
        "issue": work.by_issue(machine),
    }
    bound = max(times, key=lambda name: times[name])
    return f"{1e6 * times[bound]:,.0f} us, {bound}"


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *rest = rows
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rest):
        yield f"| {' | '.join(row)} |"


def main() -> None:
    with TemporaryDirectory() as folder:
        tables = {COMPILED: compiled_table(), ROOFLINE: roofline_table(Emulator(Path(folder)))}
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name}: begin -->\n")
        text = (
            before
            + begin
            + "\n".join(lines)
            + f"\n<!-- {name}: end -->"
            + rest.partition(f"<!-- {name}: end -->")[2]
        )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
