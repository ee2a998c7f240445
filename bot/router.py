"""The compiled index of handlers: pure look-up whose cost does not grow with their number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ahocorasick_rs import AhoCorasick, Implementation

from bot.message import Message
from bot.plugin import Handler

_SLASHES = ("/", "／")
_NUMBERED = frozenset("xuUN0123456789")
"""What begins an escape of more than one character: a code point, a name, a group."""
_SPECIAL = frozenset(".^$*+?{}[]\\|()")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A handler to try, with what the look-up found: a command's arguments, a regex's match."""

    handler: Handler
    args: str = ""
    match: re.Match[str] | None = None


def split_command(text: str) -> tuple[str, str] | None:
    """("help", "rest of the text") of "/help rest of the text", or None when it is no command.

    Any blank ends the command, the full-width one of Chinese keyboards too.
    """
    if not text.startswith(_SLASHES) or text[1:2].isspace():
        return None
    word, *rest = text[1:].split(maxsplit=1) or [""]
    return (word.casefold(), rest[0].rstrip() if rest else "") if word else None


def required_literal(pattern: re.Pattern[str]) -> str:
    """A text that every match of `pattern` must contain, or "" when none can be told.

    Conservative: only plain characters outside groups and classes count, a quantified one does not,
    and any alternative at the top level gives up.
    """
    if pattern.flags & re.VERBOSE or "(?" in pattern.pattern.replace("(?:", ""):
        return ""  # inline flags and look-arounds change what a plain character means
    folds = bool(pattern.flags & re.IGNORECASE)
    runs: list[str] = [""]
    depth = 0
    source = pattern.pattern
    position = 0
    while position < len(source):
        char = source[position]
        position += 1
        if char == "\\":
            if source[position : position + 1] in _NUMBERED:
                return ""
            position += 1
            runs.append("")
        elif char == "[":
            position = _class_end(source, position)
            runs.append("")
        elif char == "(":
            depth += 1
            runs.append("")
        elif char == ")":
            depth -= 1
            runs.append("")
        elif char == "|" and depth == 0:
            return ""
        elif char in "*?+{" and depth == 0:
            runs[-1] = runs[-1][:-1]
            runs.append("")
            if char == "{":
                position = source.find("}", position) + 1 or len(source)
        elif depth == 0 and char not in _SPECIAL and not (folds and _folds_oddly(char)):
            runs[-1] += char
        else:
            runs.append("")
    return max(runs, key=len)


def _folds_oddly(char: str) -> bool:
    """Whether IGNORECASE lets `char` match something that casefold() does not map onto it ("i" ~ "ı")."""
    return char in "iI" or (not char.isascii() and char.lower() != char.upper())


def _class_end(source: str, position: int) -> int:
    """The index behind a character class whose "[" stands just before `position`."""
    if source[position : position + 1] == "^":
        position += 1
    if source[position : position + 1] == "]":
        position += 1
    while position < len(source) and source[position] != "]":
        position += 2 if source[position] == "\\" else 1
    return position + 1


class Router:
    """Finds the handlers of a message: commands, then keywords, then regexes, then catch-alls.

    Within each kind the lower priority comes first, then the order of registration. A group message
    that is not for the bot reaches only handlers that registered with `overhear`.
    """

    def __init__(self, handlers: Iterable[Handler]) -> None:
        ordered = sorted(handlers, key=lambda handler: handler.priority)
        self._rank = {handler: rank for rank, handler in enumerate(ordered)}
        self._commands: dict[str, list[Handler]] = {}
        self._events: dict[str, list[Handler]] = {}
        for handler in ordered:
            index = {"command": self._commands, "event": self._events}.get(handler.kind)
            if index is not None:
                for name in handler.names:
                    index.setdefault(name.casefold(), []).append(handler)
        self._messages = [handler for handler in ordered if handler.kind == "message"]
        self._overhearing = [handler for handler in self._messages if handler.overhear]
        self.listeners = tuple(handler for handler in ordered if handler.overhear)
        """Whoever wants to hear what was not said to the bot."""
        self._words = _Words((word, h) for h in ordered if h.kind == "keyword" for word in h.names)
        regexes = [(required_literal(h.pattern), h) for h in ordered if h.kind == "regex" and h.pattern]
        self._literals = _Words((literal, h) for literal, h in regexes if literal)
        self._open_regexes = [h for literal, h in regexes if not literal]

    def knows_command(self, text: str) -> bool:
        """Whether `text` is a command that some handler registered."""
        command = split_command(text)
        return command is not None and command[0] in self._commands

    def route(self, message: Message) -> Iterator[Candidate]:
        """The handlers to try, in order, looked up lazily."""
        if message.event:
            return (Candidate(handler) for handler in self._events.get(message.event.casefold(), ()))
        if not message.to_me:
            return self._overheard(message.text)
        command = split_command(message.text)
        found = self._commands.get(command[0]) if command else None
        if command and found:
            return chain((Candidate(h, args=command[1]) for h in found), self._catch_all(message.text))
        return self._catch_all(message.text)

    def _catch_all(self, text: str) -> Iterator[Candidate]:
        yield from self._by_content(text)
        for handler in self._messages:
            yield Candidate(handler)

    def _overheard(self, text: str) -> Iterator[Candidate]:
        for candidate in self._by_content(text):
            if candidate.handler.overhear:
                yield candidate
        for handler in self._overhearing:
            yield Candidate(handler)

    def _by_content(self, text: str) -> Iterator[Candidate]:
        folded = text.casefold()
        for handler in sorted(self._words.find(folded), key=self._rank.__getitem__):
            yield Candidate(handler)
        regexes = self._literals.find(folded)
        regexes.update(self._open_regexes)
        for handler in sorted(regexes, key=self._rank.__getitem__):
            match = handler.pattern.search(text) if handler.pattern else None
            if match:
                yield Candidate(handler, match=match)


class _Words:
    """All handlers whose word occurs in a text, by one pass of an Aho-Corasick automaton."""

    def __init__(self, pairs: Iterable[tuple[str, Handler]]) -> None:
        self._handlers: dict[str, list[Handler]] = {}
        for word, handler in pairs:
            self._handlers.setdefault(word.casefold(), []).append(handler)
        self._words = list(self._handlers)
        self._automaton = AhoCorasick(self._words, implementation=Implementation.DFA) if self._words else None

    def find(self, folded: str) -> set[Handler]:
        if self._automaton is None:
            return set()
        hits = {found for found, _, _ in self._automaton.find_matches_as_indexes(folded, overlapping=True)}
        return {handler for hit in hits for handler in self._handlers[self._words[hit]]}
