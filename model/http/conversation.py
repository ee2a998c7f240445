"""OpenAI's messages as this project's question and history."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from model.http.bodies import Message
from model.http.errors import ApiError
from model.types import Turn


def read_messages(messages: Sequence[Message]) -> tuple[str, tuple[Turn, ...]]:
    """The last question and the rounds before it. Raises ApiError when the last message is not the user's.

    Messages of one role in a row are one. The system's text, wherever it stands, goes before the first
    question: ChatGLM-6B knows no other place for it. An answer to nothing gets an empty question.
    """
    system = "\n".join(message.content for message in messages if message.role in ("system", "developer"))
    talk = [message for message in messages if message.role in ("user", "assistant")]
    if not talk or talk[-1].role != "user":
        raise ApiError(400, "messages: the last one must be the user's", param="messages")
    parts = [
        (role, "\n".join(message.content for message in same))
        for role, same in groupby(talk, lambda message: message.role)
    ]
    if parts[0][0] == "assistant":
        parts.insert(0, ("user", ""))
    texts = [text for _, text in parts]
    if system:
        texts[0] = f"{system}\n\n{texts[0]}" if texts[0] else system
    *rounds, query = texts
    return query, tuple(map(Turn, rounds[::2], rounds[1::2]))
