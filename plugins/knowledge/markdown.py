"""Markdown and plain text as sections; markup goes, words stay."""

from __future__ import annotations

import html
import re

from plugins.knowledge.outline import Document, Outline

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})")
_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+(?:\[[ xX]\][ \t]+)?|(\d{1,9}[.)])[ \t]+)")
_QUOTE = re.compile(r"^ {0,3}(?:> ?)+")
_TABLE_RULE = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_CELL = re.compile(r"(?<!\\)\|")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,300}>")
_IMAGE = re.compile(r"!\[([^\]\n]{0,500})\]\([^)\n]{0,2000}\)")
_LINK = re.compile(r"\[([^\]\n]{1,500})\](?:\([^)\n]{0,2000}\)|\[[^\]\n]{0,200}\])")
_AUTOLINK = re.compile(r"<(https?://[^<>\s]{1,2000}|[^<>\s@]{1,100}@[^<>\s]{1,200})>")
_DEFINITION = re.compile(r" {0,3}\[[^\]\n]{1,200}\]:[ \t]+\S+")
_STRONG = re.compile(r"(\*{1,3}|~~|`+)(?=\S)([^\n]{1,2000}?)(?<=\S)\1")
_UNDERSCORED = re.compile(r"(?<!\w)(_{1,3})(?=\S)([^\n]{1,2000}?)(?<=\S)\1(?!\w)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_TITLE = re.compile(r"(?m)^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$")

_SHORT_LINE = 40
_NUMBERED = re.compile(
    r"(?P<chapter>第[一二三四五六七八九十百\d]{1,4}[章节部分篇条][、：:\s]?)|"
    r"(?P<han>[一二三四五六七八九十]{1,3}[、.．])|"
    r"(?P<enclosed>[（(][一二三四五六七八九十\d]{1,3}[）)])|"
    r"(?P<figure>\d{1,2}(?:\.\d{1,2}){0,3}[.、．)]?\s)|"
    r"(?P<roman>[IVX]{1,4}\.\s)|"
    r"(?P<bracket>【)"
)
_ENDS_SENTENCE = tuple("。！？；，,;.!?…")


def read_markdown(text: str, name: str) -> Document:
    """A Markdown document; `name` is its title where neither front matter nor a heading gives one."""
    outline = Outline()
    text, title = _front_matter(text)
    lines = _COMMENT.sub("", text).split("\n")
    block: list[str] = []

    def flush() -> None:
        if block:
            outline.paragraph("\n".join(map(plain, block)))
            block.clear()

    position, fence = 0, ""
    while position < len(lines):
        line = lines[position]
        position += 1
        opened = _FENCE.match(line)
        if fence or opened:
            if not fence and opened:
                flush()
                fence = opened[1]
            elif opened and opened[1].startswith(fence) and not line.strip().strip(fence[0]):
                outline.paragraph("\n".join(block))
                block.clear()
                fence = ""
            else:
                block.append(line)
            continue
        line = _QUOTE.sub("", line)
        heading = _HEADING.fullmatch(line)
        underline = _UNDERLINE.fullmatch(line) if len(block) == 1 else None
        if heading:
            flush()
            outline.heading(len(heading[1]), plain(heading[2] or ""))
        elif underline and not _ITEM.match(block[0]):
            outline.heading(1 if "=" in underline[1] else 2, plain(block.pop()))
        elif "|" in line and position < len(lines) and _is_table_rule(lines[position]):
            flush()
            position = _read_table(outline, lines, position - 1)
        elif not line.strip() or _RULE.fullmatch(line) or _DEFINITION.match(line):
            flush()
        else:
            if _ITEM.match(line):
                flush()
            block.append(_ITEM.sub(lambda item: f"{item[1]} " if item[1] else "", line, count=1))
    flush()
    return _titled(outline, title, name)


def read_text(text: str, name: str) -> Document:
    """Plain text: paragraphs stand between blank lines, a short line alone or numbered is a heading."""
    outline = Outline()
    first = True
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        if _is_heading(lines, first):
            outline.heading(1 if first else 2, lines.pop(0))
        first = False
        listed = sum(bool(_ITEM.match(line)) for line in lines) > 1
        for paragraph in lines if listed else ["\n".join(lines)]:
            outline.paragraph(paragraph)
    return _titled(outline, "", name)


def plain(text: str) -> str:
    """Markdown's inline markup taken off one line."""
    text = _IMAGE.sub(r"\1", text)
    text = _AUTOLINK.sub(r"\1", text)
    text = _LINK.sub(r"\1", text)
    text = _TAG.sub("", text)
    for _ in range(3):  # bold in italics in a quote: no one nests deeper
        text = _UNDERSCORED.sub(r"\2", _STRONG.sub(r"\2", text))
    return html.unescape(_ESCAPE.sub(r"\1", text)).strip()


def _front_matter(text: str) -> tuple[str, str]:
    """The text without a leading `---` block, and the title that stands in the block."""
    if not text.startswith("---\n"):
        return text, ""
    end = text.find("\n---", 3)
    if end < 0 or text[end + 4 : end + 5] not in ("", "\n"):
        return text, ""
    title = _TITLE.search(text, 0, end)
    return text[end + 4 :], title[1] if title else ""


def _is_table_rule(line: str) -> bool:
    return "|" in line and "-" in line and _TABLE_RULE.fullmatch(line) is not None


def _read_table(outline: Outline, lines: list[str], position: int) -> int:
    """Take a table whose header is at `position`; returns where the text goes on."""
    rows = [_cells(lines[position])]
    position += 2
    while position < len(lines) and "|" in lines[position] and lines[position].strip():
        rows.append(_cells(lines[position]))
        position += 1
    outline.table(rows)
    return position


def _cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [plain(cell) for cell in _CELL.split(line)]


def _is_heading(lines: list[str], first: bool) -> bool:
    """Whether a block begins with a heading: short, no sentence, alone or numbered unlike the next line."""
    line = lines[0]
    if len(line) > _SHORT_LINE or line.endswith(_ENDS_SENTENCE) or line.startswith(("-", "*", "•", "·")):
        return False
    if len(lines) == 1 or first:
        return True
    style = _numbering(line)
    return style is not None and style != _numbering(lines[1])


def _numbering(line: str) -> str | None:
    found = _NUMBERED.match(line)
    return found.lastgroup if found else None


def _titled(outline: Outline, title: str, name: str) -> Document:
    document = outline.document(title)
    return document if document.title else Document(name, document.sections)
