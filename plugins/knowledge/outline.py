"""A document as its readers see it: sections of plain text under their headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_SENTENCE_END = re.compile(r"[。；！？]|[.;!?](?=\s)")


@dataclass(frozen=True, slots=True)
class Section:
    """Paragraphs under one heading; `path` holds the headings above it, the outermost first."""

    path: tuple[str, ...]
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A file's title and sections, in order."""

    title: str
    sections: tuple[Section, ...]


@dataclass(slots=True)
class Outline:
    """Collects sections while a reader goes through a document from top to bottom."""

    sections: list[Section] = field(default_factory=list)
    _headings: list[tuple[int, str]] = field(default_factory=list)
    _paragraphs: list[str] = field(default_factory=list)

    def heading(self, level: int, text: str) -> None:
        """Begin a section; headings of the same or a deeper level end."""
        text = " ".join(text.split())
        if not text:
            return
        self.close()
        self._headings = [item for item in self._headings if item[0] < level]
        self._headings.append((level, text))

    def paragraph(self, text: str) -> None:
        """Add a paragraph to the section; blank ones are dropped."""
        lines = (" ".join(line.split()) for line in text.splitlines())
        text = "\n".join(line for line in lines if line)
        if text:
            self._paragraphs.append(text)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Add each row as a line that says which cell belongs to which column."""
        rows = [[" ".join(cell.split()) for cell in row] for row in rows if any(cell.strip() for cell in row)]
        if not rows:
            return
        head, *body = rows
        lines = [_table_line(head, row) for row in body] if body else [" ".join(head)]
        for line in lines:
            self.paragraph(line)

    def close(self) -> None:
        """End the section."""
        if self._paragraphs:
            path = tuple(text for _, text in self._headings)
            self.sections.append(Section(path, tuple(self._paragraphs)))
            self._paragraphs = []

    def document(self, title: str) -> Document:
        """Everything collected; without a title the outermost heading of the first section is taken."""
        self.close()
        if not title and self.sections and self.sections[0].path:
            title = self.sections[0].path[0]
        return Document(" ".join(title.split()), tuple(self.sections))


def _table_line(head: Sequence[str], row: Sequence[str]) -> str:
    """`配送范围：江浙沪 · 时效：1–2 天。` of a header and a row: one sentence, so that it is quoted whole."""
    wide = any("\u2e80" < char < "\uffef" for char in "".join((*head, *row)))
    colon, stop = ("：", "。") if wide else (": ", ".")
    cells = []
    for position, cell in enumerate(row):
        name = head[position] if position < len(head) else ""
        cell = _SENTENCE_END.sub(lambda end: "，" if end[0] in "。；！？" else ",", cell.rstrip("。；.;"))
        if cell:
            cells.append(f"{name}{colon}{cell}" if name else cell)
    return " · ".join(cells) + stop
