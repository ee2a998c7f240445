"""One tree of errors; callers decide on classes and attributes, never on texts."""

from __future__ import annotations

from pathlib import Path

from model.types import ModelBusy as ModelBusy
from model.types import ModelError as ModelError


class BotError(Exception):
    """Anything this framework raises on purpose."""


class ConfigError(BotError):
    """A configuration that cannot be used: names the file, line and key, and says what to do."""

    def __init__(
        self,
        problem: str,
        *,
        file: Path | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.key = key
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        text = ": ".join(part for part in (place, self.key, self.problem) if part)
        return f"{text}; {self.remedy}" if self.remedy else text


class DataError(BotError):
    """A document, FAQ file or message that cannot be read: names the file and the row."""

    def __init__(
        self, problem: str, *, file: Path | None = None, row: int | None = None, remedy: str | None = None
    ) -> None:
        self.problem = problem
        self.file = file
        self.row = row
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        row = f"row {self.row}" if self.row is not None else None
        text = ": ".join(str(part) for part in (self.file, row, self.problem) if part)
        return f"{text}; {self.remedy}" if self.remedy else text


MAY_HAVE_ARRIVED = 120.0
"""The patience with a send that got no answer where another try would show it twice: about five tries."""


class ConnectorError(BotError):
    """A platform refused or could not be reached; `retry_after` (seconds) when trying again makes sense.

    `patience`: seconds of failing like this after which it is given up, where trying for as long as the
    platform's `give_up_after` would do harm: it may have been delivered all the same, or never will be.
    """

    def __init__(
        self,
        problem: str,
        *,
        retry_after: float | None = None,
        code: int | None = None,
        patience: float | None = None,
    ) -> None:
        self.problem = problem
        self.retry_after = retry_after
        self.code = code
        self.patience = patience
        super().__init__(problem)


class Undeliverable(ConnectorError):
    """The platform will never take this message (blocked, kicked, gone): do not retry."""


class Overloaded(BotError):
    """A bounded queue is full; the platform should send again after `retry_after` seconds."""

    def __init__(self, retry_after: float = 5.0) -> None:
        self.retry_after = retry_after
        super().__init__(f"queue full, retry after {retry_after:g} s")


class StoreError(BotError):
    """The database did not take a write: nothing was recorded.

    `transient`: it is locked, full or away, and may take the same write later.
    """

    def __init__(self, problem: str, *, transient: bool = False) -> None:
        self.problem = problem
        self.transient = transient
        super().__init__(problem)


class PluginError(BotError):
    """A plugin could not be imported, configured or started."""

    def __init__(self, plugin: str, problem: str) -> None:
        self.plugin = plugin
        self.problem = problem
        super().__init__(f"plugin {plugin!r}: {problem}")


class AskTimeout(BotError):
    """Nobody answered `Session.ask` in time."""


class AskCancelled(BotError):
    """The question of `Session.ask` was called off: by a command of the user, or since the bot stops."""

    def __init__(self, *, stopping: bool) -> None:
        self.stopping = stopping
        super().__init__("the bot is stopping" if stopping else "the user gave a command instead")
