"""FAQ files: what is read from each format, and one clear error for everything that is wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from bot import DataError
from bot.retrieval import Entry
from plugins.faq.entries import question_id
from plugins.faq.export import FORMATS
from plugins.faq.files import escape_cell, join_cell, read_file, split_cell, unescape_cell


def entries(file: Path) -> list[Entry]:
    return [record.entry for record in read_file(file)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def workbook(folder: Path, rows: Sequence[Sequence[object]]) -> Path:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    book.save(folder / "faq.xlsx")
    return folder / "faq.xlsx"


def refusal(file: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_file(file)
    assert caught.value.file == file
    assert str(file) in str(caught.value)
    return caught.value


# -- what is read ----------------------------------------------------------------------------


def test_a_yaml_entry_is_read_with_all_its_fields(tmp_path: Path) -> None:
    text = """
- id: shipping-fee
  question: 运费是多少？
  similar: [邮费怎么算, 包邮吗]
  answer: 满 99 元包邮。
  tags: [物流]
- question: second
  answer: "line one\\nline two"
"""
    first, second = entries(written(tmp_path, "faq.yaml", text))
    assert first.id == "shipping-fee"
    assert first.texts == ("运费是多少？", "邮费怎么算", "包邮吗")
    assert first.answer == "满 99 元包邮。"
    assert first.tags == ("物流",)
    assert second.answer == "line one\nline two"


def test_yaml_words_and_figures_stay_as_they_are_written(tmp_path: Path) -> None:
    text = "- {id: 007, question: 营业吗, answer: yes, similar: 24, tags: [null, 1.50]}"
    [entry] = entries(written(tmp_path, "faq.yaml", text))
    assert (entry.id, entry.answer, entry.texts, entry.tags) == ("007", "yes", ("营业吗", "24"), ("1.50",))


def test_an_entry_without_an_id_keeps_its_id_while_the_question_stays(tmp_path: Path) -> None:
    [before] = entries(written(tmp_path, "faq.yaml", "- {question: 怎么退货？, answer: a}"))
    [after] = entries(written(tmp_path, "faq.yaml", "- {question: ' 怎么退货? ', answer: b, tags: [c]}"))
    assert before.id == after.id == question_id("怎么退货？")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_csv_is_read_in_the_encodings_that_excel_writes(tmp_path: Path, encoding: str) -> None:
    text = "question,answer,similar,tags,id\r\n怎么退货,“七天内”,退货流程|不想要了,售后|退货,back\r\n"
    [entry] = entries(written(tmp_path, "faq.csv", text.encode(encoding)))
    assert entry.texts == ("怎么退货", "退货流程", "不想要了")
    assert (entry.id, entry.answer, entry.tags) == ("back", "“七天内”", ("售后", "退货"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_may_use_other_delimiters_columns_and_chinese_headers(tmp_path: Path, delimiter: str) -> None:
    rows = [["备注", "问题", "答案"], ["x", "你好", "您好"], ["", "", ""], ["", "再见", "慢走"]]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert [entry.answer for entry in entries(written(tmp_path, "faq.csv", text))] == ["您好", "慢走"]


def test_xlsx_formulas_stay_text_and_figures_lose_no_form(tmp_path: Path) -> None:
    file = workbook(
        tmp_path,
        [["Question", "Answer", "note"], ["price?", 99], ["sum?", '=HYPERLINK("http://x")'], ["on?", True]],
    )
    answers = [entry.answer for entry in entries(file)]
    assert answers == ["99", '=HYPERLINK("http://x")', "TRUE"]


def test_a_similar_question_that_repeats_its_own_question_is_dropped(tmp_path: Path) -> None:
    text = "- {question: Where?, answer: here, similar: [where, WHERE!, whither]}"
    [entry] = entries(written(tmp_path, "faq.yaml", text))
    assert entry.texts == ("Where?", "whither")


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "row", "problem"),
    [
        ("- {question: a, answer: b}\n- {question: '', answer: b}", 2, "question is empty"),
        ("- {question: a, answer: b}\n- {answer: b}", 2, "question is empty"),
        ("- {question: a, answer: ' '}", 1, "answer is empty"),
        ("- {question: a b, answer: b}\n- {question: c, answer: d, similar: ['A  B!']}", 2, "row 1"),
        ("- {id: x, question: a, answer: b}\n- {id: x, question: c, answer: d}", 2, "id 'x' is taken"),
        ("- {question: a, answer: b, anwser: c}", 1, "did you mean answer"),
        ("- {question: a, question: b, answer: c}", 1, "stands twice"),
        ("- {question: {a: b}, answer: c}", 1, "question is not text"),
        ("- {question: [a, b], answer: c}", 1, "question is a list"),
        ("- just text", 1, "not an entry"),
        ("- {id: 'a b', question: a, answer: b}", 1, "has blanks"),
        (f"- {{question: {'q' * 501}, answer: b}}", 1, "501 characters"),
    ],
)
def test_a_wrong_yaml_entry_is_named_by_its_row(tmp_path: Path, text: str, row: int, problem: str) -> None:
    error = refusal(written(tmp_path, "faq.yaml", text))
    assert error.row == row
    assert problem in str(error)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("question: a", "not a list"),
        ("- {question: a", "line 2: not valid YAML"),
        ("- question: a\n  answer: b\n   c: d", "line 3: not valid YAML"),
        ("[" * 5_000, "not valid YAML"),
        (b"- question: \xff\xfe", "byte 0xff is not UTF-8"),
        ("- question: a\x01", "not valid YAML"),
    ],
)
def test_broken_yaml_is_one_error(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert problem in str(refusal(written(tmp_path, "faq.yaml", text)))


@pytest.mark.parametrize(
    ("text", "row", "problem"),
    [
        ("question,answer\na,b\n,c\n", 3, "question is empty"),
        ("question,answer\na,b\n\nA!,c\n", 4, "duplicate question 'A!'"),
        ("question,reply\na,b\n", 1, "column 'answer' is missing"),
        ("question,answr\na,b\n", 1, "did you mean answer"),
        ("question,answer,问题\na,b,c\n", 1, "two columns are the question"),
        ("question,answer\na,b,c\n", 2, "more cells than columns"),
        ('question,answer\na,"b\n', 2, "not valid CSV"),
        ("", None, "table is empty"),
        (b"question,answer\na,\xff\xff\n", 2, "byte 0xff is not UTF-8"),
        (b"question,answer\na,b\x00\n", None, "not a text file"),
    ],
)
def test_a_wrong_csv_row_is_named(tmp_path: Path, text: str | bytes, row: int | None, problem: str) -> None:
    error = refusal(written(tmp_path, "faq.csv", text))
    assert error.row == row
    assert problem in str(error)


def test_a_wrong_xlsx_row_is_named(tmp_path: Path) -> None:
    file = workbook(tmp_path, [["question", "answer"], ["a", "b"], [None, "c"]])
    error = refusal(file)
    assert error.row == 3


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return out.getvalue()


def poisoned(folder: Path, part: str, content: bytes) -> Path:
    """A good workbook with one part replaced."""
    good = workbook(folder, [["question", "answer"], ["a", "b"]])
    with zipfile.ZipFile(good) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    return written(folder, "poisoned.xlsx", archive({**members, part: content}))


LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c r="A1" t="inlineStr"><is><t>&b;</t></is></c></row></sheetData></worksheet>"""


def test_xlsx_bombs_and_entities_are_refused(tmp_path: Path) -> None:
    bomb = poisoned(tmp_path, "xl/worksheets/sheet1.xml", b" " * (3 << 20))
    assert "packed suspiciously" in str(refusal(bomb))
    assert "not a readable workbook" in str(refusal(poisoned(tmp_path, "xl/worksheets/sheet1.xml", LAUGHS)))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\xd0\xcf\x11\xe0" * 100, archive({"a": b"b"}), archive({})]
)
def test_what_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "workbook" in str(refusal(written(tmp_path, "faq.xlsx", content)))


def test_a_sheet_that_claims_endless_rows_ends(tmp_path: Path) -> None:
    cell = '<c r="{}" t="inlineStr"><is><t>{}</t></is></c>'
    sheet = (
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        '<dimension ref="A1:XFD1048576"/><sheetData>'
        f'<row r="1">{cell.format("A1", "question")}{cell.format("B1", "answer")}</row>'
        f'<row r="1048576">{cell.format("A1048576", "a")}{cell.format("B1048576", "b")}</row>'
        "</sheetData></worksheet>"
    )
    file = poisoned(tmp_path, "xl/worksheets/sheet1.xml", sheet.encode())
    assert entries(file) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "use .yaml" in str(refusal(written(tmp_path, "faq.xls", b"")))
    assert "cannot be read" in str(refusal(tmp_path / "absent.csv"))


# -- round trips -----------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)
QUESTION = TEXT.map(lambda text: " ".join(text.split())).filter(lambda text: text.strip("\ufeff") and text)


@given(st.lists(TEXT, min_size=1))
def test_cells_hold_any_texts(texts: list[str]) -> None:
    assert split_cell(join_cell(texts)) == texts


@given(st.text(max_size=20))
def test_no_cell_begins_like_a_formula(text: str) -> None:
    cell = escape_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_cell(cell) == text


NASTY = (
    Entry("a", ("=1+1", "+a", "-b|c", "'@d", "back\\slash\\"), "=cmd|' /C calc'!A0", tags=("x|y", "1,2")),
    Entry("b", ("是 yes", "null", "~"), '第一行\n第二行 “引号” "quoted", 逗号', tags=("yes",)),
    Entry("007", ("# not a comment", "a: b"), "- not a list"),
)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_exported_reads_as_the_same_entries(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, f"out.{kind}", FORMATS[kind](NASTY))
    assert [(e.id, e.texts, e.answer, e.tags) for e in entries(file)] == [
        (e.id, e.texts, e.answer, e.tags) for e in NASTY
    ]
