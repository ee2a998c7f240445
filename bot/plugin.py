"""A plugin: a name, a validated config, and handlers registered by decorators."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from bot.errors import PluginError
from bot.message import Message
from bot.reply import Answer
from bot.rules import Rule

Kind = Literal[
    "command",
    "keyword",
    "regex",
    "message",
    "event",
    "schedule",
    "middleware",
    "answered",
    "heard",
    "kept",
    "said",
    "startup",
    "shutdown",
]
Next = Callable[[Message], Awaitable[Answer]]
"""What a middleware calls to go on; it may change the message, the answer, or not call it at all."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class NoConfig(BaseModel, extra="forbid"):
    """The config of a plugin that has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """One registered function and when it is called."""

    plugin: str
    kind: Kind
    function: Callable[..., Any]
    names: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    rules: tuple[Rule, ...] = ()
    priority: int = 50
    help: str = ""
    overhear: bool = False
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of the loaded plugins, in order; looked up when asked, since a reload changes them."""

    handlers: Callable[[], Sequence[Handler]]


class Plugin:
    """Collects handlers; the loader reads them once after the module was imported.

    `tables` is a folder with the plugin's own alembic versions, where it has tables; `index` says what
    the `bot.retrieval.Index` that its handlers may ask for holds: questions or documents.
    Lower `priority` is asked first.
    """

    def __init__(
        self,
        name: str,
        *,
        config: type[BaseModel] = NoConfig,
        help: str = "",
        tables: Path | None = None,
        index: Literal["faq", "knowledge"] = "faq",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise PluginError(name, "a plugin's name is lower-case letters, digits, '-' and '_'")
        self.name = name
        self.config = config
        self.help = help
        self.tables = tables
        self.index = index
        self.handlers: list[Handler] = []

    def command(
        self,
        *names: str,
        help: str = "",
        rules: Sequence[Rule] = (),
        priority: int = 50,
    ) -> Callable[[_Function], _Function]:
        """Call the function for `/name`; the rest of the line is injected as `args: str`."""
        if not names or any(not name or any(c.isspace() or c in "/@" for c in name) for name in names):
            raise PluginError(self.name, f"a command needs names without blanks, '/' and '@': {names!r}")
        return self._register("command", names=names, rules=rules, priority=priority, help=help)

    def keyword(
        self, *words: str, rules: Sequence[Rule] = (), priority: int = 50, overhear: bool = False
    ) -> Callable[[_Function], _Function]:
        """Call the function when the text contains one of `words` (letter case does not matter)."""
        if not words or not all(words):
            raise PluginError(self.name, "a keyword handler needs at least one non-empty word")
        return self._register("keyword", names=words, rules=rules, priority=priority, overhear=overhear)

    def regex(
        self,
        pattern: str,
        *,
        flags: re.RegexFlag = re.NOFLAG,
        rules: Sequence[Rule] = (),
        priority: int = 50,
        overhear: bool = False,
    ) -> Callable[[_Function], _Function]:
        """Call the function when `pattern` is found; the match is injected as `re.Match`."""
        try:
            compiled = re.compile(pattern, flags)
        except re.error as error:
            raise PluginError(self.name, f"regex {pattern!r}: {error}") from error
        return self._register("regex", pattern=compiled, rules=rules, priority=priority, overhear=overhear)

    def message(
        self, *rules: Rule, priority: int = 50, overhear: bool = False
    ) -> Callable[[_Function], _Function]:
        """Call the function for every text that no command, keyword or regex answered.

        With `overhear` also for group messages that nobody addressed to the bot.
        """
        return self._register("message", rules=rules, priority=priority, overhear=overhear)

    def event(self, *names: str, rules: Sequence[Rule] = ()) -> Callable[[_Function], _Function]:
        """Call the function for a platform's event (`feedback`, `joined`, ...)."""
        return self._register("event", names=names, rules=rules)

    def schedule(self, cron: str, *, timezone: str | None = None) -> Callable[[_Function], _Function]:
        """Call the function at the times of a five-field cron line."""
        return self._register("schedule", names=(cron,), timezone=timezone)

    def middleware(self, *, priority: int = 50) -> Callable[[_Function], _Function]:
        """Wrap the way of every message: the function takes `message` and `next` and returns an answer."""
        return self._register("middleware", priority=priority)

    def answered(self, function: _Function) -> _Function:
        """Call the function with every `Answered`; the `bot.store.Step`s it returns are committed with it.

        What it counts is counted once, whatever crashes. It must be quick: the answer waits for it.
        """
        return self._register("answered")(function)

    def heard(self, function: _Function) -> _Function:
        """Pass every message that answers `Session.ask`, which no middleware sees, through the function.

        It is not async and returns the message as the asker gets it; None lets the middlewares have it, as
        one that answers nothing.
        """
        return self._register("heard")(function)

    def kept(self, function: _Function) -> _Function:
        """Pass every text that is kept in the history through the function (`args: str`, not async)."""
        return self._register("kept")(function)

    def said(self, function: _Function) -> _Function:
        """Pass every `Reply` of `Session.say` and `Session.ask`, which no middleware sees, through it."""
        return self._register("said")(function)

    def startup(self, function: _Function) -> _Function:
        """Call the function once before messages are taken (a failure switches the plugin off)."""
        return self._register("startup")(function)

    def shutdown(self, function: _Function) -> _Function:
        """Call the function once after the last message was answered."""
        return self._register("shutdown")(function)

    def _register(
        self,
        kind: Kind,
        *,
        names: tuple[str, ...] = (),
        pattern: re.Pattern[str] | None = None,
        rules: Sequence[Rule] = (),
        priority: int = 50,
        help: str = "",
        overhear: bool = False,
        timezone: str | None = None,
    ) -> Callable[[_Function], _Function]:
        def decorate(function: _Function) -> _Function:
            self.handlers.append(
                Handler(
                    plugin=self.name,
                    kind=kind,
                    function=function,
                    names=names,
                    pattern=pattern,
                    rules=tuple(rules),
                    priority=priority,
                    help=help,
                    overhear=overhear,
                    timezone=timezone,
                )
            )
            return function

        return decorate
