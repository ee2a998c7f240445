"""What goes out: replies from handlers, and the parts of them that a connector sends."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bot.message import clean_text


@dataclass(frozen=True, slots=True)
class Attachment:
    """What goes out beside the text: a medium's bytes under a file name, or a titled link.

    A platform that does not take its kind is sent a line of text that names it.
    """

    kind: Literal["image", "voice", "video", "file", "link"]
    name: str
    data: bytes = field(default=b"", repr=False)
    url: str = ""
    text: str = ""

    @property
    def line(self) -> str:
        """What stands for it where it cannot be shown."""
        return "\n".join(filter(None, (self.name, self.text, self.url))) if self.url else f"[{self.name}]"

    def to_row(self) -> dict[str, str]:
        """What JSON can carry."""
        data = base64.b64encode(self.data).decode()
        return {"kind": self.kind, "name": self.name, "data": data, "url": self.url, "text": self.text}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Attachment:
        """Rebuild what `to_row` gave."""
        return cls(**{**row, "data": base64.b64decode(row["data"])})


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer.

    `source`/`sources` name what it rests on, `feedback` offers thumbs, `choices` offers follow-up
    questions (buttons where the platform has them), `markdown` says the text is CommonMark.
    `attachments` follow the text. `miss` says that it does not answer what was asked, for nobody knew;
    `model` and `prefix` name what wrote it. `hand_over` asks that people take the talk, and says why.
    """

    text: str
    source: str | None = None
    sources: tuple[str, ...] = ()
    feedback: bool = False
    choices: tuple[str, ...] = ()
    markdown: bool = False
    confidence: float | None = None
    attachments: tuple[Attachment, ...] = ()
    miss: bool = False
    model: str = ""
    prefix: str = ""
    hand_over: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be sent, where the handler is still to blame. Raises TypeError."""
        texts = (self.text, *self.sources, *self.choices, *([self.source] if self.source is not None else []))
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a reply's text, sources and choices are strings, not {type(text).__name__}")

    @property
    def all_sources(self) -> tuple[str, ...]:
        """`source` first, then `sources`, without repetition."""
        named = (self.source, *self.sources) if self.source else self.sources
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that arrives in pieces; a bare async iterator of strings is the same without the extras."""

    chunks: AsyncIterator[str]
    sources: tuple[str, ...] = ()
    feedback: bool = False
    markdown: bool = False
    confidence: float | None = None
    model: str = ""
    prefix: str = ""
    hand_over: str = ""

    def finished(self, text: str) -> Reply:
        """The answer once all its pieces are there."""
        return Reply(
            text,
            sources=self.sources,
            feedback=self.feedback,
            markdown=self.markdown,
            confidence=self.confidence,
            model=self.model,
            prefix=self.prefix,
            hand_over=self.hand_over,
        )


Answer = str | Reply | Stream | AsyncIterator[str] | None
"""What a handler may return; None means "not mine, ask the next one"."""


def as_answer(result: object) -> Reply | Stream | None:
    """What a handler returned, as one of three; blank answers count as none. Raises TypeError."""
    if result is None or isinstance(result, Stream):
        return result
    if isinstance(result, str):
        result = Reply(result)
    if isinstance(result, Reply):
        result = replace(result, text=clean_text(result.text))
        return result if result.text.strip() or result.attachments else None
    if isinstance(result, AsyncIterator):
        return Stream(result)
    kind = type(result).__name__
    raise TypeError(f"a handler returned {kind}; return str, Reply, Stream, an async iterator or None")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an answer goes: the chat, and the message it answers where there is one."""

    connector: str
    bot: str
    chat: str
    group: bool = False
    thread: str | None = None
    user: str = ""
    message_id: str = ""
    delivery: str = ""
    return_path: str = ""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One part of an answer, small enough for its platform, as the outbox keeps it.

    `key` stays the same over every retry (the webhook-id of a resend); `edits` is the platform's id of
    a message already shown while streaming, which this part completes instead of sending another. Where
    there is an `attachment` it is what the part sends, and `text` names it.
    """

    target: Target
    text: str
    key: str
    id: int = 0
    inbox_id: int | None = None
    part: int = 0
    final: bool = True
    markdown: bool = False
    feedback: bool = False
    sources: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    edits: str | None = None
    attachment: Attachment | None = None

    def to_json(self) -> str:
        """Serialise what the outbox does not keep in columns of its own."""
        row = {name: getattr(self, name) for name in _PAYLOAD}
        row["target"] = {name: getattr(self.target, name) for name in Target.__slots__}
        row["attachment"] = self.attachment.to_row() if self.attachment else None
        return clean_text(json.dumps(row, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def from_json(
        cls, payload: str, *, id: int, inbox_id: int | None, key: str, part: int, edits: str | None
    ) -> Outgoing:
        """Rebuild what `to_json` wrote, with the outbox's columns."""
        row = json.loads(payload)
        row["target"] = Target(**row["target"])
        row["attachment"] = Attachment.from_row(row["attachment"]) if row.get("attachment") else None
        for name in ("sources", "choices"):
            row[name] = tuple(row[name])
        return cls(**row, id=id, inbox_id=inbox_id, key=key, part=part, edits=edits)


_PAYLOAD = tuple(
    name for name in Outgoing.__slots__ if name not in ("id", "inbox_id", "key", "part", "edits")
)
