"""Canned answers: a name and its text, from a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml

from bot import DataError

MAX_FILE = 1 << 20
MAX_TEXT = 8000


def read_canned(given: Path) -> dict[str, str]:
    """The texts of a file by name. Raises DataError naming file and key."""
    try:
        if given.stat().st_size > MAX_FILE:
            raise DataError("the file is too large", file=given, remedy=f"{MAX_FILE >> 20} MiB at most")
        loaded = yaml.safe_load(given.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=given) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", file=given, remedy="save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise DataError(f"is not YAML: {error}", file=given) from error
    if not isinstance(loaded, dict):
        raise DataError("holds no canned answers", file=given, remedy="write lines of `name: text`")
    return {_name(name, given): _text(name, text, given) for name, text in loaded.items()}


def _name(name: object, file: Path) -> str:
    text = str(name).strip()
    if not text or any(char.isspace() for char in text):
        raise DataError(f"{name!r} is no name", file=file, remedy="write a word without blanks")
    return text


def _text(name: object, text: object, file: Path) -> str:
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
        raise DataError(
            f"{name}: is no text of 1 to {MAX_TEXT} characters", file=file, remedy="write `name: text`"
        )
    return text.strip()
