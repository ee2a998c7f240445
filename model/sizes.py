"""Sizes in bytes: how people read them, whether a disk has room, how far something is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from model.types import ModelError

Progress: TypeAlias = Callable[[int, int], None]
"""Gets the bytes that are done and their total."""


def size_text(size: int) -> str:
    """Bytes for people, in decimal units as disks and hubs count."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 1e3:.1f} kB"


def check_room(
    folder: Path, needed: int, *, file: Path | None = None, remedy: str = "make room or choose another folder"
) -> None:
    """Raise ModelError, about `file` or the folder, where its disk has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        problem = f"the disk is full: {size_text(needed)} are needed, only {size_text(free)} are free"
        raise ModelError(problem, file=file or folder, remedy=remedy)
