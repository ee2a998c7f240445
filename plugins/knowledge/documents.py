"""Finds documents in folders and reads them whatever their format and encoding."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bot import DataError
from plugins.knowledge.html import read_html
from plugins.knowledge.markdown import read_markdown, read_text
from plugins.knowledge.outline import Document

SUFFIXES = (".md", ".markdown", ".txt", ".html", ".htm")
MAX_FILE = 16 << 20
MAX_FILES = 20_000

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?\s*([A-Za-z0-9_-]{2,20})", re.IGNORECASE)
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]")


def find_documents(folder: Path) -> Iterator[Path]:
    """Documents below a folder, sorted; hidden files and folders are skipped, each folder is entered once."""
    seen: set[tuple[int, int]] = set()
    count = 0
    for root, folders, files in os.walk(folder, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith((".", "~$")) and path.suffix.lower() in SUFFIXES and path.is_file():
                count += 1
                if count > MAX_FILES:
                    raise DataError(f"more than {MAX_FILES} documents", file=folder, remedy="split it")
                yield path


def read_document(file: Path, raw: bytes) -> Document:
    """Parse a file's content by its suffix. Raises DataError that names the file."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"cannot read {suffix or 'this kind of file'}", file=file, remedy=", ".join(SUFFIXES))
    html = suffix in (".html", ".htm")
    text = _decode(file, raw, html=html)
    read = read_html if html else read_text if suffix == ".txt" else read_markdown
    document = read(text, file.name.split(".", 1)[0])
    if not document.sections:
        raise DataError("there is no text in it", file=file)
    return document


def _decode(file: Path, raw: bytes, *, html: bool) -> str:
    """By byte order mark, then UTF-8, then what an HTML page declares, then GB18030."""
    encodings = [name for mark, name in _BOMS if raw.startswith(mark)][:1]
    if not encodings:
        declared = _META_CHARSET.search(raw[:4096]) if html else None
        encodings = ["utf-8", *([declared[1].decode()] if declared else []), "gb18030"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        if "\x00" in text:
            raise DataError("not a text file", file=file, remedy="take it out of the folder")
        return _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    raise DataError("its encoding is not known", file=file, remedy="save it as UTF-8")
