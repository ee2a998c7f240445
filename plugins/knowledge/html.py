"""HTML pages as sections: headings, paragraphs, lists and tables of what a reader sees."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from plugins.knowledge.outline import Document, Outline

_HIDDEN = (
    "script, style, template, noscript, nav, aside, header nav, footer, form, button, svg, iframe, "
    "[hidden], [aria-hidden=true]"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_TAGS = """
a abbr b bdi bdo big cite code del dfn em font i ins kbd label mark q rp rt ruby s samp small span
strike strong sub sup time tt u var wbr
"""
_INLINE = frozenset(_INLINE_TAGS.split())
_BLANKS = re.compile(r"\s+")
_MAX_DEPTH = 200


def read_html(text: str, name: str) -> Document:
    """Parse an HTML page; `name` is its title where neither <title> nor a heading gives one."""
    tree = LexborHTMLParser(text)
    titles = tree.css("title")
    title = titles[0].text() if titles else ""
    for node in tree.css(_HIDDEN):
        node.decompose()
    outline = Outline()
    root = tree.css_first("main") or tree.body
    if root is not None:
        _Reader(outline).read(root)
    document = outline.document(title)
    return document if document.title else Document(name, document.sections)


class _Reader:
    """Walks the tree; inline text gathers until a block begins or ends."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._inline: list[str] = []

    def read(self, root: LexborNode) -> None:
        self._children(root, 0)
        self._flush()

    def _children(self, node: LexborNode, depth: int) -> None:
        child = node.child
        while child is not None:
            self._node(child, depth + 1)
            child = child.next

    def _node(self, node: LexborNode, depth: int) -> None:
        tag = (node.tag or "").lower()
        if tag == "-text":
            self._inline.append(_BLANKS.sub(" ", node.text(deep=False)))
        elif tag == "br":
            self._inline.append("\n")
        elif depth > _MAX_DEPTH:
            self._inline.append(node.text(separator=" "))
        elif tag in _HEADINGS:
            self._flush()
            self._outline.heading(_HEADINGS[tag], node.text())
        elif tag == "table":
            self._flush()
            self._outline.table(_rows(node))
        elif tag in _INLINE:
            self._children(node, depth)
        elif tag and tag[0].isalpha():
            self._flush()
            self._children(node, depth)
            self._flush()

    def _flush(self) -> None:
        self._outline.paragraph("".join(self._inline))
        self._inline = []


def _rows(table: LexborNode) -> list[list[str]]:
    """The cells of a table; a table in a cell counts as its text."""
    rows = []
    for row in table.css("tr"):
        parent = row.parent
        while parent is not None and parent.tag != "table":
            parent = parent.parent
        if parent is not None and parent.mem_id == table.mem_id:
            rows.append([cell.text(separator=" ") for cell in row.iter() if cell.tag in ("td", "th")])
    return rows
