"""Fetches published weights, as listed by a hub: goes on where it was cut off, and checks what has come.

The bytes are received here, not by huggingface_hub: its later versions throw away what an interrupted
download has got. Code of a repository (`*.py`) is never fetched.
"""

from __future__ import annotations

import hashlib
import http
import time
import urllib.error
from collections.abc import Iterable
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path

from model.hub import BROKEN, ELSEWHERE, RemoteFile, get, list_files, refused
from model.lfs import is_pointer
from model.sizes import Progress, check_room
from model.types import ModelError

REPO = "THUDM/chatglm-6b"
ATTEMPTS = 5
"""Connections in a row that bring nothing."""
PAUSE = 2.0
"""Seconds between them."""

SAFETENSORS = ("*.safetensors",)
PICKLES = ("pytorch_model*.bin",)
NOT_WANTED = ("consolidated*",)
"""The weights once more, in the layout of their authors' own code."""
BESIDE = ("*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt", "*LICENSE*")

_CHUNK = 1 << 20
_AGAIN = "run the same command again: it goes on where it stopped"


def download(
    repo: str = REPO,
    target: Path | None = None,
    *,
    mirror: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch weights, configuration and tokenizer of a repository into a folder; returns the folder.

    target: by default a folder named like the repository. mirror: the address of a hub that speaks as
    ModelScope does; without one it is HF_ENDPOINT's, or the Hugging Face hub. Complete files stay. Raises
    ModelError: no such repository, refused, unreachable, too little room, a file that is not as listed.
    """
    wanted = _choose(list_files(repo, mirror=mirror, revision=revision), repo)
    folder = target or Path(repo.rpartition("/")[2])
    meter = _Meter(sum(file.size for file in wanted), progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, _missing(folder, wanted), remedy="make room, or name another folder with --to")
        for file in wanted:
            _fetch(file, folder / file.name, meter)
    except OSError as error:
        raise ModelError(
            f"cannot be written: {error.strerror or error}",
            file=folder,
            remedy="let this user write there, or name another folder with --to",
        ) from error
    return folder


def _choose(files: Iterable[RemoteFile], repo: str) -> list[RemoteFile]:
    """What a model needs of the files, the weights last; pickles only where there are no safetensors."""
    # sub-folders hold the weights again in other layouts; and a name could be a way out of the target
    flat = [file for file in files if Path(file.name).name == file.name and not _is_like(file, NOT_WANTED)]
    weights = [file for file in flat if _is_like(file, SAFETENSORS)]
    unused = ("*.bin.index.json",)
    if not weights:
        weights = [file for file in flat if _is_like(file, PICKLES)]
        unused = ("*.safetensors.index.json",)
    if not weights:
        raise ModelError(
            f"{repo} holds no weights: neither *.safetensors nor pytorch_model*.bin",
            remedy=f"name a repository that does, such as {REPO}",
        )
    return [*(file for file in flat if _is_like(file, BESIDE) and not _is_like(file, unused)), *weights]


def _is_like(file: RemoteFile, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(file.name, pattern) for pattern in patterns)


def _missing(folder: Path, files: Iterable[RemoteFile]) -> int:
    """Bytes that are still to come."""
    missing = 0
    for file in files:
        own = (folder / file.name, _partial(folder / file.name))
        missing += max(0, file.size - max((part.stat().st_size for part in own if part.exists()), default=0))
    return missing


def _partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.partial")


class _Meter:
    """Counts bytes for `progress`."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Part(AbstractContextManager["_Part"]):
    """What has come of a file so far, and the SHA-256 of it."""

    def __init__(self, path: Path, meter: _Meter) -> None:
        self.path = path
        self._meter = meter
        self._stream = path.open("ab+")
        self._begin()
        self._stream.seek(0)
        while chunk := self._stream.read(_CHUNK):
            self._count(chunk)

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _begin(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()

    def _count(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.sha256.update(chunk)
        self._meter.add(len(chunk))

    @property
    def final(self) -> Path:
        """What it is called once it is complete."""
        return self.path.with_suffix("")

    def append(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self._count(chunk)

    def clear(self) -> None:
        self._stream.truncate(0)
        self._meter.add(-self.size)
        self._begin()

    def head(self) -> bytes:
        self._stream.seek(0)
        return self._stream.read(1 << 10)


def _fetch(file: RemoteFile, final: Path, meter: _Meter) -> None:
    """Complete one file. What has no SHA-256 is small, and fetched anew: nothing tells if it is the same."""
    if file.sha256 and final.is_file() and final.stat().st_size == file.size:
        with _Part(final, meter) as part:
            if part.sha256.hexdigest() == file.sha256:
                return
        meter.add(-file.size)
    partial = _partial(final)
    try:
        with _Part(partial, meter) as part:
            if file.sha256 is None or part.size > file.size:
                part.clear()
            _receive_all(file, part)
            _check(file, part)
    except ModelError:
        if not partial.stat().st_size:
            partial.unlink()
        raise
    partial.replace(final)


def _receive_all(file: RemoteFile, part: _Part) -> None:
    failures = 0
    while part.size < file.size:
        before = part.size
        try:
            _receive(file, part)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise refused(file.url.partition("?")[0], error.code) from None
            failures += 1
        except BROKEN:
            failures = 0 if part.size > before else failures + 1
        if failures == ATTEMPTS:
            problem = f"the connection broke after {part.size:,} of {file.size:,} bytes"
            raise ModelError(problem, file=part.path, remedy=_AGAIN)
        if failures:
            time.sleep(PAUSE)


def _receive(file: RemoteFile, part: _Part) -> None:
    """Append what is still missing. Raises HTTPError, one of BROKEN when it is cut off, ModelError."""
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    with get(file.url, headers) as response:
        if part.size and response.status != http.HTTPStatus.PARTIAL_CONTENT:  # all of it comes again
            part.clear()
        length = response.headers.get("Content-Length")
        if length is not None and part.size + int(length) != file.size:
            size, head = part.size + int(length), response.read(1 << 10)
            part.clear()
            raise _pointer(part) if is_pointer(head) else _wrong_size(part, size, file.size)
        while chunk := response.read(min(_CHUNK, file.size - part.size)):
            part.append(chunk)
    if part.size < file.size:
        raise ConnectionError


def _check(file: RemoteFile, part: _Part) -> None:
    """Refuse what is not the listed file, and forget it: nobody could go on from there."""
    found = part.sha256.hexdigest()
    if is_pointer(part.head()):
        part.clear()
        raise _pointer(part)
    if file.sha256 and found != file.sha256:
        part.clear()
        problem = f"its SHA-256 is {found}, expected is {file.sha256}; it was removed"
        raise ModelError(problem, file=part.final, remedy="download it again")


def _wrong_size(part: _Part, found: int, expected: int) -> ModelError:
    problem = f"comes with {found:,} bytes, expected are {expected:,}"
    return ModelError(problem, file=part.final, remedy=ELSEWHERE)


def _pointer(part: _Part) -> ModelError:
    problem = "the hub gave a Git LFS pointer instead of the file itself"
    return ModelError(problem, file=part.final, remedy=ELSEWHERE.partition(", ")[2])
