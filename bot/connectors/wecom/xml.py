"""WeCom's flat XML messages; no DTD, no entities, no depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.parsers.expat import ErrorString, ExpatError, ParserCreate

from bot.errors import BotError

MAX_DEPTH = 8
MAX_ELEMENTS = 256
"""Both far beyond any documented message: they bound what an unsigned body can cost."""

_CONTROLS = bytes(byte for byte in range(32) if chr(byte) not in "\t\n\r")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class BadXml(BotError):
    """Bytes that are no message."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


def parse(data: bytes) -> dict[str, str]:
    """The text of each innermost element by its path below <xml>: `Content`, `SendLocationInfo.Label`.

    Of several with one path the first counts. Always read as UTF-8; control characters, which XML forbids
    and people paste all the same, are left out. Raises BadXml.
    """
    fields = _Fields()
    # Every callback is read twice: with handlers of its own, expat takes a third of the time of a tree.
    parser = ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = fields.start
    parser.EndElementHandler = fields.end
    parser.CharacterDataHandler = fields.data
    parser.StartDoctypeDeclHandler = _refuse  # before anything in it is read: no entity is ever known
    try:
        parser.Parse(data.translate(None, _CONTROLS), True)
    except ExpatError as error:
        raise BadXml(f"{ErrorString(error.code)} at line {error.lineno}, column {error.offset}") from None
    return fields.found


def _refuse(*_: object) -> None:
    raise BadXml("document types and entities are refused")


def build(fields: Mapping[str, str | int]) -> bytes:
    """<xml> with an element for each field; what XML cannot carry becomes U+FFFD."""
    elements = (f"<{name}>{_content(value)}</{name}>" for name, value in fields.items())
    return f"<xml>{''.join(elements)}</xml>".encode()


def _content(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    text = _NO_XML.sub("\ufffd", value).replace("]]>", "]]]]><![CDATA[>")
    return f"<![CDATA[{text}]]>"


class _Fields:
    """What the parser reports to: keeps texts, builds no tree, refuses early what is too large."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._path: list[str] = []
        self._text: list[str] = []
        self._innermost = False
        self._elements = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._path) == MAX_DEPTH:
            raise BadXml(f"more than {MAX_ELEMENTS} elements, or more than {MAX_DEPTH} in each other")
        if not self._path and tag != "xml":
            raise BadXml("the root is not <xml>")
        self._path.append(tag)
        self._text.clear()
        self._innermost = True

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        if self._innermost and len(self._path) > 1:
            self.found.setdefault(".".join(self._path[1:]), "".join(self._text))
        self._path.pop()
        self._text.clear()
        self._innermost = False
