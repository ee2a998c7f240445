"""Compiled kernels on disk, so that only the first start has to wait for the compiler."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import structlog

from model.kernels.nvrtc import Compiled

log = structlog.get_logger(__name__)

VARIABLE = "GLMBOT_CUDA_CACHE"
MOST = 64
"""Files that are kept; those not used for longest go first."""
_ENDING = ".cubin"
_PARTIAL = ".glmbot-"
_FORMAT = b"glmbot cubin 1\n"


def cache_folder() -> Path:
    """$GLMBOT_CUDA_CACHE, else a folder in the user's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "glmbot" / "cuda"


class CubinCache:
    """One file for each key: a line that says what it is, its digest, then names and cubin.

    Files appear whole or not at all, whoever else writes them; one that is damaged counts as missing. Where
    the folder cannot be written this is said once, and kernels are compiled at every start. Whatever else
    lies there is left alone: the folder may be one that somebody named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = False

    def get(self, key: str) -> Compiled | None:
        """What was kept under a key."""
        file = self._file(key)
        try:
            content = file.read_bytes()
            with suppress(OSError):  # when it was used last; a folder that is read only does not mind
                os.utime(file)
        except OSError:
            return None
        digest, body = content[len(_FORMAT) :][:64], content[len(_FORMAT) + 64 :]
        if not content.startswith(_FORMAT) or hashlib.sha256(body).hexdigest().encode() != digest:
            log.warning("a compiled kernel is damaged and made anew", file=str(file))
            return None
        names, _, cubin = body.partition(b"\n")
        return Compiled(cubin, json.loads(names))

    def put(self, key: str, compiled: Compiled) -> None:
        """Keep it; fails without harm."""
        body = json.dumps(compiled.names).encode() + b"\n" + compiled.cubin
        content = _FORMAT + hashlib.sha256(body).hexdigest().encode() + body
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self.folder, prefix=_PARTIAL, suffix=_ENDING)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(content)
                os.chmod(partial, 0o644)  # who shares the folder would compile over and over else
                os.replace(partial, self._file(key))
            except BaseException:
                with suppress(OSError):
                    os.unlink(partial)
                raise
            self._forget_oldest()
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "compiled kernels cannot be kept: every start will compile them",
                    folder=str(self.folder),
                    error=str(error),
                    remedy=f"make it writable, or name another in {VARIABLE}",
                )

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _forget_oldest(self) -> None:
        files = list[tuple[float, Path]]()
        for file in self.folder.glob(f"*{_ENDING}"):
            with suppress(OSError):  # another process may have been faster
                files.append((file.stat().st_mtime, file))
        for _, file in sorted(files)[:-MOST]:
            with suppress(OSError):
                file.unlink()
