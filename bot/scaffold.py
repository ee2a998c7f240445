"""Writes the first files of a new plugin: a module that teaches by example, and its test."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
from importlib import resources
from pathlib import Path
from string import Template

from bot.errors import DataError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
LONGEST = 27  # NAME_book is a command, and a command of Telegram has 32 characters at most


def new_plugin(name: str, folder: Path) -> tuple[Path, Path]:
    """Write `folder`/NAME.py and its test, both or neither; returns them. Raises DataError."""
    module = name.replace("-", "_")
    _check_name(name, module)
    values = {"name": name, "module": module, "command": module, "folder": folder.as_posix()}
    files = {
        folder / f"{module}.py": _filled("scaffold_plugin.py.txt", values),
        folder / f"test_{module}.py": _filled("scaffold_test.py.txt", values),
    }
    for taken in (*files, folder / module):
        if taken.exists():
            raise DataError("exists already", file=taken, remedy="choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_all(files)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=folder) from error
    plugin, test = files
    return plugin, test


def _check_name(name: str, module: str) -> None:
    """The test imports the plugin by its file's name: that must mean nothing else."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        remedy = f"use up to {LONGEST} of a-z, 0-9, '-' and '_', a letter first, such as shop-hours"
        raise DataError(f"{name!r} is no name for a plugin", remedy=remedy)
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise DataError(f"{module!r} has a meaning in Python", remedy="choose another name")
    if module.startswith("test_") or module in ("conftest", "tests"):
        raise DataError(f"{module!r} is a name for tests", remedy="choose another name")
    if importlib.util.find_spec(module) is not None:
        raise DataError(f"an installed package is called {module!r}", remedy="choose another name")
    built_in = importlib.util.find_spec("plugins")
    for place in (built_in.submodule_search_locations or ()) if built_in else ():
        if Path(place, module).is_dir():
            raise DataError(
                f"a plugin that comes with glmbot is called {name!r}", remedy="choose another name"
            )


def _filled(template: str, values: dict[str, str]) -> str:
    return Template(resources.files("bot").joinpath(template).read_text("utf-8")).substitute(values)


def _write_all(files: dict[Path, str]) -> None:
    """Write every file or, when one cannot be, none."""
    temporary = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in files}
    try:
        for file, text in files.items():
            temporary[file].write_text(text, "utf-8")
        for file in files:
            temporary[file].replace(file)
    finally:
        for left in temporary.values():
            left.unlink(missing_ok=True)
