"""Git-LFS pointers: the few lines of text that stand for a large file which was never downloaded."""

from __future__ import annotations

from pathlib import Path

from model.types import ModelError

_POINTER = b"version https://git-lfs.github.com/spec/"


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins so is a Git-LFS pointer."""
    return head.startswith(_POINTER)


def refuse_pointer(file: Path) -> None:
    """Raise ModelError if the file is a Git-LFS pointer; OSError if it cannot be read."""
    with file.open("rb") as stream:
        if is_pointer(stream.read(len(_POINTER))):
            raise ModelError(
                "this is a Git LFS pointer, not the file itself",
                file=file,
                remedy="run `git lfs pull` in its repository, or `glmbot model download`",
            )
