"""What a benchmark prints and keeps: rows, targets with the value reached, the machine; a table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Report:
    """The results of one benchmark, added as they come and printed at the end."""

    name: str
    rows: list[Row] = field(default_factory=list)
    targets: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, **cells: Any) -> None:
        """One line of the table."""
        self.rows.append(cells)

    def at_least(self, what: str, value: float, target: float, unit: str = "") -> None:
        """A figure that is good when it is high."""
        self._target(what, value, f">= {_shown(target)}", unit, met=value >= target)

    def at_most(self, what: str, value: float, target: float, unit: str = "") -> None:
        """A figure that is good when it is low."""
        self._target(what, value, f"<= {_shown(target)}", unit, met=value <= target)

    def note(self, text: str) -> None:
        """What a reader has to know to read the figures right."""
        self.notes.append(text)

    def close(self, json_file: Path | None) -> None:
        """Print everything, and write it to `json_file` where one is given."""
        print(
            f"\n{self.name}: {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        )
        _print_table(self.rows)
        if self.targets:
            print()
            _print_table(self.targets)
        for note in self.notes:
            print(f"- {note}")
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._all(), ensure_ascii=False, indent=1)
            json_file.write_text(text + "\n", encoding="utf-8")

    def _target(self, what: str, value: float, target: str, unit: str, *, met: bool) -> None:
        self.targets.append(
            {"target": what, "value": value, "wanted": target, "unit": unit, "met": "yes" if met else "NO"}
        )

    def _all(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "processor": platform.machine(),
                "cpus": os.cpu_count(),
                "system": platform.system(),
                "python": platform.python_version(),
            },
            "rows": self.rows,
            "targets": self.targets,
            "notes": self.notes,
        }


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return made


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank); 0 of none."""
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, round(len(ordered) * percent / 100 + 0.5) - 1))
    return ordered[rank] if ordered else 0.0


def _print_table(rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_shown(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for number, line in enumerate(lines):
        cells = (_padded(cell, width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
