"""Reads FAQ files (YAML, CSV, XLSX) into records; whatever is wrong is one DataError naming file and row."""

from __future__ import annotations

import csv
import difflib
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import yaml

from bot import DataError
from plugins.faq.entries import MAX_FILE, MAX_ROWS, Record, check_doubles, make_record

COLUMNS = ("id", "question", "similar", "answer", "tags")
SUFFIXES = (".yaml", ".yml", ".csv", ".xlsx")
_HEADERS = {
    **{name: name for name in COLUMNS},
    "编号": "id",
    "问题": "question",
    "标准问题": "question",
    "相似问题": "similar",
    "相似问法": "similar",
    "答案": "answer",
    "回答": "answer",
    "标签": "tags",
}
SIMILAR_BARS = "|｜"
TAG_BARS = "|｜,，、;；"
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MAX_UNPACKED = 256 << 20
_MAX_RATIO = 200
_MAX_COLUMNS = 32


def read_file(file: Path) -> list[Record]:
    """All records of a FAQ file, checked for doubles. Raises DataError."""
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv, ".xlsx": _read_xlsx}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            f"{file.suffix or 'a file without suffix'} is not a FAQ format",
            file=file,
            remedy=f"use {', '.join(SUFFIXES)}",
        )
    try:
        size = file.stat().st_size
        if size > MAX_FILE:
            raise DataError(f"the file has {size >> 20} MiB", file=file, remedy=f"{MAX_FILE >> 20} at most")
        records = list(reader(file))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from error
    check_doubles(file, records)
    return records


def split_cell(text: str, bars: str = SIMILAR_BARS) -> list[str]:
    """The texts of a cell that are separated by any of `bars`; a bar in a text stands behind a backslash."""
    parts = re.findall(rf"(?:\\[\\{bars}]|[^{bars}])+", text)
    return [re.sub(rf"\\([\\{bars}])", r"\1", part) for part in parts]


def join_cell(texts: Iterable[str], bars: str = SIMILAR_BARS) -> str:
    """One cell that `split_cell` splits into these texts again."""
    return "|".join(re.sub(rf"[\\{bars}]", lambda bar: f"\\{bar[0]}", text) for text in texts)


def escape_cell(text: str) -> str:
    """Put a quote before a text that a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Take off what `escape_cell` put on."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


# -- YAML ------------------------------------------------------------------------------------


def _read_yaml(file: Path) -> Iterator[Record]:
    """Entries of a YAML list; every scalar is text as written, so that `yes` and 007 stay what they are."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = _decode(file, file.read_bytes(), ("utf-8-sig",))
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{where}not valid YAML: {error.problem or error.context}", file=file) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"not valid YAML: {error}", file=file) from error
    if root is None:
        return
    if not isinstance(root, yaml.SequenceNode):
        raise DataError("not a list of entries", file=file, remedy="begin each with '- question: ...'")
    if len(root.value) > MAX_ROWS:
        raise DataError(f"{len(root.value)} entries", file=file, remedy=f"{MAX_ROWS} at most")
    for row, node in enumerate(root.value, 1):
        yield _yaml_record(file, row, node)


def _yaml_record(file: Path, row: int, node: yaml.Node) -> Record:
    def wrong(problem: str, at: yaml.Node, remedy: str | None = None) -> DataError:
        return DataError(f"line {at.start_mark.line + 1}: {problem}", file=file, row=row, remedy=remedy)

    if not isinstance(node, yaml.MappingNode):
        raise wrong("not an entry", node, "write 'question: ...' and 'answer: ...'")
    fields: dict[str, list[str]] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        if name not in COLUMNS:
            raise wrong(f"unknown key {name!r}", key, _nearest(name))
        if name in fields:
            raise wrong(f"the key {name!r} stands twice", key)
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise wrong(f"{name} is not text", value, "put it in quotes")
        fields[name] = [item.value for item in items if item.tag != "tag:yaml.org,2002:null"]
        if len(fields[name]) > 1 and name not in ("similar", "tags"):
            raise wrong(f"{name} is a list", value, "write one text")
    return make_record(
        file,
        row,
        given_id="".join(fields.get("id", ())),
        question="".join(fields.get("question", ())),
        answer="".join(fields.get("answer", ())),
        similar=fields.get("similar", ()),
        tags=fields.get("tags", ()),
    )


# -- CSV -------------------------------------------------------------------------------------


def _read_csv(file: Path) -> Iterator[Record]:
    raw = file.read_bytes()
    encodings = ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "gb18030")
    text = _decode(file, raw, encodings)
    if "\x00" in text:
        raise DataError("not a text file", file=file, remedy="save the table as CSV UTF-8")
    header = text[: text.find("\n") + 1] or text
    delimiter = max(",;\t", key=header.count)
    yield from _records(file, _csv_rows(file, text, delimiter))


def _csv_rows(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    row = 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row, cells in enumerate(reader, 1):
            yield row, cells
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", file=file, row=row + 1) from error


# -- XLSX ------------------------------------------------------------------------------------


def _read_xlsx(file: Path) -> Iterator[Record]:
    """Records of the first sheet; formulas are taken as the text they are."""
    from openpyxl import load_workbook

    _check_archive(file)
    try:
        with file.open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of styles and extensions that do not matter here
            book = load_workbook(opened, read_only=True, keep_links=False)
            if not book.worksheets:
                raise DataError("the workbook has no sheet", file=file)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()
            yield from _records(file, _sheet_rows(sheet))
    except DataError:
        raise
    except Exception as error:  # a crafted workbook makes openpyxl raise almost anything
        problem = f"not a readable workbook: {type(error).__name__}: {error}"
        raise DataError(problem, file=file, remedy="save it again as .xlsx") from error


def _check_archive(file: Path) -> None:
    """Refuse a zip bomb before anything is unpacked."""
    remedy = "save the table again as .xlsx, without pictures"
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"not an .xlsx workbook: {error}", file=file, remedy=remedy) from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MAX_UNPACKED or len(members) > 2_000:
        raise DataError(f"the workbook unpacks to {unpacked >> 20} MiB", file=file, remedy=remedy)
    for member in members:
        if member.file_size > 1 << 20 and member.file_size > _MAX_RATIO * max(member.compress_size, 1):
            raise DataError(f"{member.filename} in it is packed suspiciously", file=file, remedy=remedy)
        if member.flag_bits & 1:
            raise DataError("the workbook is encrypted", file=file, remedy="save it without a password")


def _sheet_rows(sheet: Any) -> Iterator[tuple[int, Sequence[str]]]:
    cells = sheet.iter_rows(values_only=True, max_col=_MAX_COLUMNS, max_row=MAX_ROWS + 2)
    for row, values in enumerate(cells, 1):
        yield row, [_cell(value) for value in values]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, date | time) else str(getattr(value, "text", value))


# -- tables ----------------------------------------------------------------------------------


def _records(file: Path, rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[Record]:
    """Records of a table whose first row names the columns; blank rows are skipped."""
    columns: list[str | None] = []
    for row, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = _columns(file, row, cells)
            continue
        if row > MAX_ROWS + 1:
            raise DataError("too many rows", file=file, row=row, remedy=f"{MAX_ROWS} at most")
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError("more cells than columns", file=file, row=row, remedy="quote texts with commas")
        fields = {name: unescape_cell(cell) for name, cell in zip(columns, cells, strict=False) if name}
        yield make_record(
            file,
            row,
            given_id=fields.get("id", ""),
            question=fields.get("question", ""),
            answer=fields.get("answer", ""),
            similar=split_cell(fields.get("similar", "")),
            tags=split_cell(fields.get("tags", ""), TAG_BARS),
        )
    if not columns:
        raise DataError("the table is empty", file=file, remedy="its first row names the columns")


def _columns(file: Path, row: int, cells: Sequence[str]) -> list[str | None]:
    """The field of each column, None for one that is not ours (a note of the operator)."""
    names = [cell.strip().casefold() for cell in cells]
    found = [_HEADERS.get(name) for name in names]
    for name, field in zip(names, found, strict=True):
        if field is None and difflib.get_close_matches(name, COLUMNS, 1, 0.7):
            raise DataError(f"unknown column {name!r}", file=file, row=row, remedy=_nearest(name))
    for field in COLUMNS:
        if found.count(field) > 1:
            raise DataError(f"two columns are the {field}", file=file, row=row, remedy="keep one")
    for field in ("question", "answer"):
        if field not in found:
            raise DataError(
                f"the column {field!r} is missing",
                file=file,
                row=row,
                remedy=f"name the columns {', '.join(COLUMNS)} in the first row",
            )
    return found


def _decode(file: Path, raw: bytes, encodings: Sequence[str]) -> str:
    """The text in the first encoding that fits; the error names the row where UTF-8 ends."""
    problem: UnicodeDecodeError | None = None
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            problem = problem or error
    assert problem is not None
    row = raw.count(b"\n", 0, problem.start) + 1
    raise DataError(
        f"byte 0x{raw[problem.start]:02x} is not {problem.encoding.upper()}",
        file=file,
        row=row,
        remedy="save the file as UTF-8",
    )


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, COLUMNS, 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(COLUMNS)}"
