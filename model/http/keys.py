"""API keys: who may ask, by a file that commands change while the server runs.

A key is 32 random bytes, so one SHA-256 of it is safe to keep: slow hashes and salts are for passwords, which
people choose and others can guess. Nobody guesses 256 bits, and the hash tells nothing about them.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import ENOENT
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import structlog
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.types import ModelError

log = structlog.get_logger(__name__)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Without a colon, which parts a key's name from its user's."""
PerMinute = Annotated[int, Field(ge=1)]


class Key(BaseModel):
    """What is known of a key: never the key itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{_NAME}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: datetime
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key]


class KeyFile:
    """A small JSON file of hashes, which only its owner may read; it is replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Key]:
        """All keys; none where there is no file. Raises ModelError for one that is none of ours."""
        try:
            return _Content.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return []
        except ValidationError as error:
            raise ModelError("is no file of API keys", file=self.path, remedy="name another one") from error
        except OSError as error:
            raise self._failed("read", error) from error

    def create(
        self, name: str, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> str:
        """Add a key of that name, and return it: this is the only time it can be seen. Raises ModelError."""
        if not re.fullmatch(_NAME, name):
            remedy = "use up to 64 letters, digits, dots, dashes and underscores"
            raise ModelError(f"{name!r} is no name for a key", remedy=remedy)
        token = f"sk-{secrets.token_urlsafe(32)}"
        key = Key(
            name=name,
            sha256=_digest(token),
            created=datetime.now(UTC).replace(microsecond=0),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        with self._alone():
            keys = self.read()
            if any(key.name == name for key in keys):
                remedy = f"choose another name, or revoke it first: glmbot model key revoke {name}"
                raise ModelError(f"there is a key {name!r} already", file=self.path, remedy=remedy)
            self._write([*keys, key])
        return token

    def revoke(self, name: str) -> None:
        """Take the key of that name out. Raises ModelError where there is none."""
        with self._alone():
            keys = self.read()
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                known = ", ".join(key.name for key in keys) or "none"
                raise ModelError(f"there is no key {name!r}", file=self.path, remedy=f"known are: {known}")
            self._write(left)

    def signature(self) -> tuple[int, ...]:
        """Changes when the file or its rights do; empty where there is none, or none in reach."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    @property
    def _target(self) -> Path:
        """The file itself, also where the path is a link to it."""
        return Path(os.path.realpath(self.path))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other commands that change the file wait meanwhile: none of them undoes what this one does."""
        target = self._target
        if not target.parent.is_dir():  # the lock would make it
            raise self._failed("written", FileNotFoundError(ENOENT, os.strerror(ENOENT)))
        try:
            lock = FileLock(target.with_name(f".{target.name}.lock"), mode=0o600)
            with lock:
                yield
        except OSError as error:
            raise self._failed("locked", error) from error

    def _write(self, keys: list[Key]) -> None:
        """Replace the file, or what a link stands for; who could read it before still can."""
        text = _Content(keys=keys).model_dump_json(indent=2, exclude_none=True)
        target = self._target
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # mode 0600
        except OSError as error:
            raise self._failed("written", error) from error
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, name)
                with suppress(OSError, AttributeError):  # only root may give files away; Windows has no chown
                    os.chown(name, target.stat().st_uid, target.stat().st_gid)
            os.replace(name, target)
        except OSError as error:
            with suppress(OSError):
                os.unlink(name)
            raise self._failed("written", error) from error

    def _failed(self, what: str, error: OSError) -> ModelError:
        return ModelError(
            f"cannot be {what}: {error.strerror}", file=self.path, remedy="check its folder and rights"
        )


class Keys:
    """Who may ask: keys that were given, and those of a file, which is read again whenever it changes.

    Once there was a key, one is required for as long as this object lives: revoking the last one must not
    open the door to everybody.
    """

    def __init__(
        self, given: Sequence[str] = (), file: Path | None = None, *, required: bool = False
    ) -> None:
        """given: blanks around them are none of theirs. required: also while there is no key at all.

        Raises ModelError for one that is empty, and for a file that cannot be read.
        """
        given = [token.strip() for token in given]
        if not all(given):
            remedy = "give one, or leave --api-key, GLMBOT_API_KEY or the entry in model.api.keys out"
            raise ModelError("an API key is empty", remedy=remedy)
        now = datetime.now(UTC)
        self._given = [  # names that no key of a file can have: they would share what is counted
            Key.model_construct(name=f"--api-key {number}", sha256=_digest(token), created=now)
            for number, token in enumerate(given, 1)
        ]
        self._file = None if file is None else KeyFile(file)
        self._signature = self._file.signature() if self._file else ()
        self._unreadable: tuple[int, ...] | None = None
        self._filed = self._file.read() if self._file else []
        self._required = required

    @property
    def required(self) -> bool:
        """Whether nobody may ask without a key."""
        self._refresh()
        self._required = self._required or bool(self._given or self._filed)
        return self._required

    def find(self, token: str) -> Key | None:
        """The key that this is. Takes the same time whichever it is, and if it is none."""
        self._refresh()
        digest = _digest(token)
        found = None
        for key in (*self._given, *self._filed):
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _refresh(self) -> None:
        """Read the file if it changed; one that cannot be read leaves the keys as they were."""
        if self._file is None or (signature := self._file.signature()) == self._signature:
            return
        try:
            self._filed = self._file.read()
        except ModelError as error:  # perhaps not for long: it is tried again, and told once
            if signature != self._unreadable:
                log.error("API keys stay as they were", reason=str(error))
            self._unreadable = signature
        else:
            self._signature, self._unreadable = signature, None


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
