"""A committed message on its way to an answer."""

from __future__ import annotations

from dataclasses import dataclass

from bot.message import Message

MAX_TEXT = 8000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A committed message on its way to a turn.

    `refusal` is the catalogue key of why it is not handled, `wait` the seconds it tells the user to wait;
    `silent` says that nothing is said about it; `shown` is the platform's message in which an answer was
    streaming when an earlier process died.
    """

    inbox_id: int
    message: Message
    refusal: str = ""
    wait: float = 0.0
    silent: bool = False
    shown: str | None = None

    @property
    def limit(self) -> str:
        """The limit that was reached, as it is counted; empty where none was."""
        return {"rate_limited": "user_limit", "group_limited": "group_limit"}.get(self.refusal, "")

    @property
    def untouched(self) -> bool:
        """Whether no plugin sees it: nothing is said anyway, or it brought the process down before."""
        return self.silent or self.refusal == "error"
