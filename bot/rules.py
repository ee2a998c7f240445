"""Composable conditions on a message: `to_me & private`, `role("admins") | ~group`."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from bot.message import Message

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Cooldowns:
    """When each (rule, session) was last let through; the oldest entries go when it is full."""

    def __init__(self, capacity: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: OrderedDict[tuple[int, str], float] = OrderedDict()
        self._capacity = capacity
        self._clock = clock

    def take(self, rule: int, session: str, seconds: float) -> bool:
        """True if `seconds` have passed since this was last true for the pair."""
        now = self._clock()
        last = self._last.get((rule, session))
        if last is not None and now - last < seconds:
            return False
        self._last[rule, session] = now
        self._last.move_to_end((rule, session))
        while len(self._last) > self._capacity:
            self._last.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may know beside the message."""

    session: str = ""
    roles: frozenset[str] = frozenset()
    respond: str = "mention"
    cooldowns: Cooldowns = field(default_factory=Cooldowns)


class Rule:
    """A named condition; `denial` is the catalogue key told to a user whose command it stopped."""

    __slots__ = ("check", "denial", "name")

    def __init__(self, check: Callable[[Message, Facts], bool], name: str, denial: str | None = None) -> None:
        self.check = check
        self.name = name
        self.denial = denial

    def __call__(self, message: Message, facts: Facts) -> bool:
        return self.check(message, facts)

    def __and__(self, other: Rule) -> Rule:
        return Rule(
            lambda message, facts: self.check(message, facts) and other.check(message, facts),
            f"({self.name} & {other.name})",
            self.denial or other.denial,
        )

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            lambda message, facts: self.check(message, facts) or other.check(message, facts),
            f"({self.name} | {other.name})",
            self.denial or other.denial,
        )

    def __invert__(self) -> Rule:
        return Rule(lambda message, facts: not self.check(message, facts), f"~{self.name}")

    def __repr__(self) -> str:
        return f"Rule({self.name})"


to_me = Rule(lambda message, facts: message.to_me, "to_me")
private = Rule(lambda message, facts: not message.chat.group, "private")
group = Rule(lambda message, facts: message.chat.group, "group")
unasked = Rule(lambda message, facts: not message.to_me and facts.respond == "faq", "unasked")
"""A group message nobody addressed to the bot, in a chat whose `groups.respond` is `faq`."""


def role(*names: str) -> Rule:
    """The user has one of the configured roles (`admins`, `agents`)."""
    wanted = frozenset(names)
    return Rule(
        lambda message, facts: not wanted.isdisjoint(facts.roles), f"role({', '.join(names)})", "denied"
    )


def parse_duration(text: str | float) -> float:
    """Seconds of "30s", "1.5m", "2h" or a plain number. Raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 5m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def cooldown(duration: str | float) -> Rule:
    """Let a session through at most once per `duration`. Put it last: passing it starts the wait."""
    seconds = parse_duration(duration)
    rule = Rule(lambda message, facts: True, f"cooldown({duration})", "cooldown")
    rule.check = lambda message, facts: facts.cooldowns.take(id(rule), facts.session, seconds)
    return rule
