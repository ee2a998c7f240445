"""What came in: messages, chats, users and segments, the same for every platform."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Replace what neither SQLite nor UTF-8 can carry (NUL, lone surrogates) by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def _fields(value: Any) -> dict[str, Any]:
    """A slots dataclass as a dict; `dataclasses.asdict` copies deeply and costs ten times as much."""
    return {name: getattr(value, name) for name in value.__slots__}


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a message: text, a mention, or a medium the platform holds under `ref`."""

    type: Literal["text", "mention", "image", "voice", "video", "file", "location", "link", "sticker"]
    text: str = ""
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """Where a message was said; `thread` is a forum topic inside the chat."""

    id: str
    group: bool = False
    title: str = ""
    thread: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Who said it; `id` is the identity the platform vouches for, `name` is only for show."""

    id: str
    name: str = ""
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message or an event from a platform.

    `delivery` is unique for a connector and bot (the inbox dedupes on it); `id` is unique in its chat
    only. `text` is what the user meant for the bot: its own mention and a wake word are taken off.
    An event carries its name in `event` and its facts in `data`; a plain message has an empty `event`.
    `return_path` is the connector's own word for where the platform takes an answer to just this message;
    it may be good for one use and is as secret as a key.
    """

    connector: str
    bot: str
    delivery: str
    chat: Chat
    user: User
    text: str
    id: str = ""
    segments: tuple[Segment, ...] = ()
    mentioned: bool = False
    to_me: bool = False
    reply_to: str | None = None
    event: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0
    trace: str = ""
    return_path: str = ""

    def cleaned(self) -> Message:
        """The same message with every text storable."""
        return replace(
            self,
            delivery=clean_text(self.delivery),
            id=clean_text(self.id),
            text=clean_text(self.text),
            return_path=clean_text(self.return_path),
            chat=replace(
                self.chat,
                id=clean_text(self.chat.id),
                title=clean_text(self.chat.title),
                thread=None if self.chat.thread is None else clean_text(self.chat.thread),
            ),
            user=replace(self.user, id=clean_text(self.user.id), name=clean_text(self.user.name)),
            segments=tuple(
                replace(part, text=clean_text(part.text), ref=clean_text(part.ref)) for part in self.segments
            ),
        )

    def to_json(self) -> str:
        """Serialise for the inbox."""
        row = {
            **_fields(self),
            "chat": _fields(self.chat),
            "user": _fields(self.user),
            "segments": [_fields(part) for part in self.segments],
        }
        return clean_text(json.dumps(row, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def from_json(cls, payload: str) -> Message:
        """Rebuild what `to_json` wrote."""
        row = json.loads(payload)
        row["chat"] = Chat(**row["chat"])
        row["user"] = User(**row["user"])
        row["segments"] = tuple(Segment(**part) for part in row["segments"])
        return cls(**row)
