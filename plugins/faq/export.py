"""Writes FAQ entries as YAML, CSV or XLSX so that reading them gives the same entries."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import yaml

from bot import DataError
from bot.retrieval import Entry
from plugins.faq.files import COLUMNS, TAG_BARS, escape_cell, join_cell

_MAX_CELL = 32_767  # Excel's own limit


def to_yaml(entries: Sequence[Entry]) -> bytes:
    """A YAML list as the FAQ reads it."""
    rows = []
    for entry in entries:
        question, *similar = entry.texts
        row = {"id": entry.id, "question": question, "similar": similar, "answer": entry.answer}
        row["tags"] = list(entry.tags)
        rows.append({name: value for name, value in row.items() if value})
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(rows, Dumper=dumper, allow_unicode=True, sort_keys=False, width=1_000)
    return text.encode()


def to_csv(entries: Sequence[Entry]) -> bytes:
    """A CSV table in UTF-8 with a byte order mark, which Excel needs to see that it is UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(_cells, entries))
    return text.getvalue().encode("utf-8-sig")


def to_xlsx(entries: Sequence[Entry]) -> bytes:
    """A workbook of one sheet, all cells text. Raises DataError for a text that no cell can hold."""
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet("FAQ")
    sheet.append(COLUMNS)
    for entry in entries:
        cells = _cells(entry)
        if max(map(len, cells)) > _MAX_CELL:
            raise DataError(
                f"{entry.id!r} is too long for a cell of Excel", remedy="use --format yaml or csv"
            )
        sheet.append(cells)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


FORMATS: dict[str, Callable[[Sequence[Entry]], bytes]] = {"yaml": to_yaml, "csv": to_csv, "xlsx": to_xlsx}


def _cells(entry: Entry) -> list[str]:
    question, *similar = entry.texts
    cells = {
        "id": entry.id,
        "question": question,
        "similar": join_cell(similar),
        "answer": entry.answer,
        "tags": join_cell(entry.tags, TAG_BARS),
    }
    return [escape_cell(cells[name]) for name in COLUMNS]
