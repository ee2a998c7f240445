"""What is remembered of each customer's conversation: what the bot wrote, and who has it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from bot.reply import Target

QUOTA = 5
"""Messages that may follow each message of a customer (path/94677)."""
_REMEMBERED = 2 * QUOTA


@dataclass(slots=True)
class Talk:
    """One customer's conversation.

    `sent` are the message ids since the customer last wrote; `human` says that a member has the conversation,
    or that it waits for one, as far as is known.
    """

    sent: set[str] = field(default_factory=set)
    human: bool = False
    _outcomes: dict[str, bool] = field(default_factory=dict)
    _code: str = ""
    _code_for: str = ""

    def heard(self) -> None:
        """The customer wrote: the platform counts from here."""
        self.sent.clear()

    def may_send(self, msgid: str) -> bool:
        """Whether the quota has room for a message, which is counted then, though only once."""
        if msgid not in self.sent and len(self.sent) >= QUOTA:
            return False
        self.sent.add(msgid)
        return True

    def note(self, msgid: str, *, delivered: bool) -> None:
        """The platform has a message, or may have it: no clear answer came."""
        self._outcomes[msgid] = delivered
        while len(self._outcomes) > _REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]

    def delivered(self, msgid: str) -> bool | None:
        """Whether the platform has a message; False for perhaps, None where nothing speaks for it."""
        return self._outcomes.get(msgid)

    def grant(self, code: str, target: Target) -> None:
        """Keep what a change of hands gave: the right to one more text, as the answer to that message."""
        self._code, self._code_for = code, target.delivery

    def granted(self, target: Target) -> str:
        """The code that the next text to a target goes with, "" for none."""
        return self._code if target.delivery in ("", self._code_for) else ""

    def spend(self) -> None:
        """The code was used, or is not valid any more."""
        self._code = ""


class Talks:
    """The conversations of one account; the one unseen for longest is forgotten when there are too many."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._talks: OrderedDict[str, Talk] = OrderedDict()

    def of(self, customer: str) -> Talk:
        """The conversation with a customer, a new one where nothing is known."""
        talk = self._talks.setdefault(customer, Talk())
        self._talks.move_to_end(customer)
        while len(self._talks) > self._capacity:
            self._talks.popitem(last=False)
        return talk
