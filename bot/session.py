"""Session keys and the handle through which a handler talks with one user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from bot.message import Message
from bot.reply import Reply
from model.types import Turn

Strategy = Literal["user-in-chat", "chat", "topic", "user"]
SEPARATOR = "\x1f"


def session_key(message: Message, strategy: Strategy) -> str:
    """The key of order and history: connector, bot, chat, thread and user, less what the strategy merges.

    A private chat is one session under every strategy but `user`, which follows a user over chats.
    """
    chat, thread, user = message.chat.id, message.chat.thread or "", message.user.id
    if strategy == "user":
        chat, thread = "", ""
    elif strategy == "topic":
        user = ""
    elif strategy == "chat":
        thread, user = "", ""
    return SEPARATOR.join((message.connector, message.bot, chat, thread, user))


class Conversation(Protocol):
    """What stands behind a session while a handler runs."""

    async def ask(self, question: str | Reply, timeout: float) -> Message: ...

    async def say(self, reply: str | Reply) -> None: ...

    async def history(self) -> Sequence[Turn]: ...

    async def clear(self) -> int: ...

    def text(self, key: str, **fields: object) -> str: ...


class Session:
    """One user's talk, as a handler sees it."""

    __slots__ = ("_conversation", "key", "language")

    def __init__(self, key: str, language: str, conversation: Conversation) -> None:
        self.key = key
        self.language = language
        self._conversation = conversation

    async def ask(self, question: str | Reply, *, timeout: float = 120.0) -> Message:
        """Ask back and wait for the user's next message; others of the same user queue behind it.

        Raises AskTimeout and AskCancelled; left uncaught, the user gets one polite line for either.
        """
        return await self._conversation.ask(question, timeout)

    async def say(self, reply: str | Reply) -> None:
        """Send something now, before the handler's own answer."""
        await self._conversation.say(reply)

    async def history(self) -> Sequence[Turn]:
        """The rounds kept for the prompt, oldest first, within the configured token budget."""
        return await self._conversation.history()

    async def clear(self) -> int:
        """Forget this talk; returns how many rounds were forgotten."""
        return await self._conversation.clear()

    def text(self, key: str, **fields: object) -> str:
        """A text of the catalogue in the user's language."""
        return self._conversation.text(key, **fields)
