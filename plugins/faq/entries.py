"""FAQ entries as files hold them: cleaned fields, stable ids, no question twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bot import DataError
from bot.retrieval import Entry, exact_key

MAX_QUESTION = 500
MAX_ANSWER = 20_000
MAX_SIMILAR = 1_000
MAX_ID = 128
MAX_ROWS = 200_000
MAX_FILE = 64 << 20

_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_BLANK = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Record:
    """An entry and the row of its file: the spreadsheet's own count, or the position in a YAML list."""

    row: int
    entry: Entry


def clean(text: str) -> str:
    """One kind of line end, nothing invisible, no blanks at the edges."""
    return _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def make_record(
    file: Path,
    row: int,
    *,
    question: str,
    answer: str,
    similar: Iterable[str] = (),
    tags: Iterable[str] = (),
    given_id: str = "",
) -> Record:
    """Check one row and build its entry. Raises DataError that names the row."""
    question, answer, given_id = _one_line(question), clean(answer), clean(given_id)
    asked = [text for text in map(_one_line, similar) if text]

    def wrong(problem: str, remedy: str) -> DataError:
        return DataError(problem, file=file, row=row, remedy=remedy)

    for name, text in (("question", question), ("answer", answer)):
        if not text:
            raise wrong(f"the {name} is empty", "fill it in or delete the row")
    for name, text, most in (
        *(("a question", text, MAX_QUESTION) for text in (question, *asked)),
        ("the answer", answer, MAX_ANSWER),
        ("the id", given_id, MAX_ID),
    ):
        if len(text) > most:
            raise wrong(f"{name} has {len(text)} characters", f"{most} at most")
    if len(asked) > MAX_SIMILAR:
        raise wrong(f"{len(asked)} similar questions", f"{MAX_SIMILAR} at most")
    if _BLANK.search(given_id):
        raise wrong(f"the id {given_id!r} has blanks", "write it like shipping-fee")
    texts: dict[str, str] = {}
    for text in (question, *asked):
        texts.setdefault(exact_key(text), text)
    entry = Entry(
        given_id or question_id(question),
        tuple(texts.values()),
        answer,
        title=question,
        source=str(file),
        tags=tuple(dict.fromkeys(tag for tag in map(_one_line, tags) if tag)),
    )
    return Record(row, entry)


def question_id(question: str) -> str:
    """The id of an entry that was given none: the same as long as its question is."""
    return f"q-{hashlib.sha256(exact_key(question).encode()).hexdigest()[:12]}"


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())


class Doubles:
    """Finds the question or id that stands twice, and says where both are."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._questions: dict[str, str] = {}

    def add(self, entry: Entry, place: str, *, file: Path | None = None, row: int | None = None) -> None:
        """Take in an entry that stands at `place`. Raises DataError (with `file` and `row`)."""
        for text in entry.texts:
            known = self._questions.get(exact_key(text))
            if known is not None:
                raise DataError(
                    f"duplicate question {text!r}, it stands in {known} too",
                    file=file,
                    row=row,
                    remedy="keep it in one place",
                )
        if entry.id in self._ids:
            raise DataError(
                f"the id {entry.id!r} is taken by {self._ids[entry.id]}",
                file=file,
                row=row,
                remedy="give it another one",
            )
        self.note(entry, place)

    def note(self, entry: Entry, place: str) -> None:
        """Take in an entry that was checked before."""
        self._ids[entry.id] = place
        self._questions.update(dict.fromkeys(map(exact_key, entry.texts), place))


def check_doubles(file: Path, records: Iterable[Record]) -> None:
    """Raise DataError for the first question or id that stands twice in one file."""
    doubles = Doubles()
    for record in records:
        doubles.add(record.entry, f"row {record.row}", file=file, row=record.row)
