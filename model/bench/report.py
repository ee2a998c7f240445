"""What a run found: a table for the terminal, the same in JSON, and what is wanted of it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.bench.figures import Figure, ratio

OURS = "glmbot"
Cells = dict[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted; met where the value is on the right side of the bound."""

    name: str
    value: float
    sign: Literal[">=", "<="]
    bound: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.bound if self.sign == ">=" else self.value <= self.bound


@dataclass(slots=True)
class Report:
    """Everything that was found. layers: how many were measured, and of how many the figures are told."""

    cpu: str
    threads: int
    model: str = ""
    kernels: str = ""
    layers: tuple[int, int] = (0, 0)
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The machine and the model in a line."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        scaled = "" if self.layers[0] == self.layers[1] else f" SCALED to {self.layers[1]} layers from"
        return f"{self.cpu}, {threads}: {self.model},{scaled} {self.layers[0]} layers, {self.kernels}"

    def of(self, name: str, subject: str = OURS) -> Figure | None:
        """A figure; None where it was not measured."""
        found = (one for one in self.figures if (one.name, one.subject) == (name, subject))
        return next(found, None)

    def ratio(self, name: str, peer: str) -> float | None:
        """How many times as fast as a peer; None where one of them was not measured."""
        ours, theirs = self.of(name), self.of(name, peer)
        return None if ours is None or theirs is None else ratio(ours, theirs)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield self.title
        yield ""
        yield from table([self._cells(figure) for figure in self.figures])
        if self.targets:
            yield ""
            yield from table([target_cells(target) for target in self.targets])
        for note in self.notes:
            yield f"- {note}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "benchmark": "model",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "cpu": self.cpu,
                "cpus": os.cpu_count(),
                "threads": self.threads,
                "processor": platform.machine(),
                "system": platform.system(),
                "python": platform.python_version(),
            },
            "model": self.model,
            "kernels": self.kernels,
            "layers_measured": self.layers[0],
            "layers_told": self.layers[1],
            "figures": [figure.to_dict() for figure in self.figures],
            "ratios": [
                {"name": figure.name, "peer": figure.subject, "ratio": times}
                for figure in self.figures
                if figure.subject != OURS and (times := self.ratio(figure.name, figure.subject)) is not None
            ],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "notes": self.notes,
        }

    def write(self, file: Path) -> None:
        """As JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _cells(self, figure: Figure) -> Cells:
        values = {"min": min(figure.values), "median": figure.middle, "max": max(figure.values)}
        cells = {"measured": figure.name, "of": figure.subject}
        cells |= {name: number(value) for name, value in values.items()} | {"unit": figure.unit}
        if figure.of_limit is not None and figure.bandwidth is not None:
            before, after = (number(value / 1e9) for value in figure.bandwidth)
            cells |= {"reached": f"{100 * figure.of_limit:.0f} %", "of its limit": figure.limit}
            cells |= {"GB/s before": before, "after": after}
        times = None if figure.subject == OURS else self.ratio(figure.name, figure.subject)
        return cells if times is None else cells | {"glmbot is": f"{times:.2f} x"}


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def target_cells(target: Target) -> Cells:
    """A row of the table of what is wanted."""
    return {
        "wanted": target.name,
        "value": number(target.value),
        "bound": f"{target.sign} {number(target.bound)}",
        "unit": target.unit,
        "met": "yes" if target.met else "NO",
    }


def table(rows: Sequence[Cells]) -> Iterator[str]:
    """Lines of aligned columns, with a head."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for index, line in enumerate(lines):
        cells = (
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
        if index == 0:
            yield "  ".join("-" * width for width in widths)
