"""What is known of a message once it has its answer."""

from __future__ import annotations

from dataclasses import dataclass

from bot.message import Message
from bot.reply import Reply


@dataclass(frozen=True, slots=True)
class Answered:
    """A message with its answer, about to be committed.

    session: the key of the talk. question, answer: as the history keeps them. plugin: who answered, "" where
    nobody did; by: the kind of its handler. seconds: from the message's arrival. at: unix time. staff: it
    is by one of them.
    """

    session: str
    message: Message
    inbox_id: int
    question: str
    answer: str
    reply: Reply
    plugin: str
    by: str
    seconds: float
    at: float
    staff: bool = False

    @property
    def chat(self) -> str:
        """Where it was asked, as `Channels` names it."""
        return f"{self.message.bot}:{self.message.chat.id}"

    @property
    def is_question(self) -> bool:
        """Whether a customer wanted to know something: no command, and nothing a middleware turned away."""
        turned_away = self.by in ("command", "middleware", "refused")
        return not self.staff and not turned_away and bool(self.message.text.strip())
