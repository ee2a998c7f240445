"""Files of sensitive words: one word a line, then after tabs what is to be done and its category."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from bot import ConfigError
from plugins.moderation.folding import MARK, fold

Action = Literal["block", "mask"]

MAX_WORDS = 100_000
MAX_WORD = 64
MAX_FILE = 16 << 20
_ACTIONS = ("block", "mask")
_PINYIN = "pinyin"


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is listed; `pinyin`: written in letters it counts, too; `category` is for the log."""

    text: str
    action: Action
    pinyin: bool = False
    category: str = ""


def read_words(files: Sequence[Path], action: Action, *, pinyin: bool) -> list[Word]:
    """The words of all files; action and pinyin hold where a line says nothing else.

    Raises ConfigError naming file and line.
    """
    words: list[Word] = []
    for file in files:
        for word in _read(file, action, pinyin):
            words.append(word)
            if len(words) > MAX_WORDS:
                raise ConfigError(f"there are more than {MAX_WORDS:,} words", file=file, remedy="list fewer")
    return words


def _read(file: Path, action: Action, pinyin: bool) -> Iterator[Word]:
    for number, line in enumerate(_lines(file), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield _word(line, file, number, action, pinyin)


def _lines(file: Path) -> Iterable[str]:
    try:
        if file.stat().st_size > MAX_FILE:
            raise ConfigError("the file is too large", file=file, remedy=f"{MAX_FILE >> 20} MiB at most")
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=file) from error
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8", file=file, line=line, remedy="save it as UTF-8") from error


def _word(line: str, file: Path, number: int, action: Action, pinyin: bool) -> Word:
    """A line's word; the columns are word, action and `pinyin` in any order, category."""
    text, *columns = (column.strip() for column in line.strip().split("\t"))
    flags = columns[0].split() if columns else []
    wrong = next((flag for flag in flags if flag not in (*_ACTIONS, _PINYIN)), None)
    if wrong is not None:
        remedy = "after the first tab write block, mask or pinyin, and a category after the second"
        raise ConfigError(f"{wrong!r} is no action", file=file, line=number, remedy=remedy)
    if {*_ACTIONS} <= {*flags}:
        raise ConfigError("a word is blocked or masked", file=file, line=number, remedy="write one of both")
    if len(text) > MAX_WORD:
        raise ConfigError(
            f"the word has more than {MAX_WORD} characters",
            file=file,
            line=number,
            remedy="write a shorter one",
        )
    if not fold(text).strip(MARK):
        raise ConfigError(
            f"{text!r} has no letter", file=file, line=number, remedy="write letters, characters or digits"
        )
    chosen = next((flag for flag in flags if flag in _ACTIONS), action)
    return Word(text, cast(Action, chosen), pinyin or _PINYIN in flags, " ".join(columns[1:]))
