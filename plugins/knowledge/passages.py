"""Cuts documents into passages: the unit that is searched, quoted and cited."""

from __future__ import annotations

from collections.abc import Iterator

from bot.retrieval import is_cjk, sentences
from plugins.knowledge.outline import Document, Section

ARROW = " › "
_MOST_CJK = 400
_MOST_LATIN = 1_100
_MAX_TITLE = 200


def passages(document: Document) -> Iterator[tuple[str, str]]:
    """(citation, text) of each passage: whole paragraphs of one section, whole sentences of a long one."""
    for section in document.sections:
        title = citation(document, section)
        most = _MOST_CJK if is_cjk("".join(section.paragraphs)) else _MOST_LATIN
        text = ""
        for paragraph in section.paragraphs:
            for piece in _pieces(paragraph, most):
                if text and len(text) + len(piece) > most:
                    yield title, text
                    text = ""
                text = f"{text}\n{piece}" if text else piece
        if text:
            yield title, text


def citation(document: Document, section: Section) -> str:
    """Where a passage stands: `配送说明 › 偏远地区`."""
    headings = section.path[1:] if section.path[:1] == (document.title,) else section.path
    return ARROW.join((document.title, *headings))[:_MAX_TITLE]


def _pieces(paragraph: str, most: int) -> Iterator[str]:
    """The paragraph, or its sentences joined up to `most` characters; a longer sentence is cut."""
    if len(paragraph) <= most:
        yield paragraph
        return
    text = ""
    for sentence in sentences(paragraph):
        for start in range(0, len(sentence), most):
            piece = sentence[start : start + most]
            if text and len(text) + len(piece) + 1 > most:
                yield text
                text = ""
            glue = " " if text and text[-1].isascii() else ""
            text += glue + piece
    if text:
        yield text
