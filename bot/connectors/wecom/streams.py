"""Streamed replies: WeCom asks for the whole text so far, again and again, until it is finished.

Source: path/101031.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bot.connectors.wecom.content import JPEG_OR_PNG
from bot.message import clean_text
from bot.render import split_text
from bot.reply import Outgoing

MAX_CONTENT = 20_480
"""Bytes of UTF-8 in one message."""
MAX_IMAGES = 10
MAX_IMAGE = 10 << 20
KEEP = 900.0
"""Seconds that a stream is remembered: WeCom asks for 6 minutes, and a copy of its question may be late."""
CAPACITY = 10_000
REMEMBER = 2 * 3600.0
"""Seconds that what WeCom has taken is remembered: as long as an answer may wait behind another, and more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer.

    `keys` are those of the parts it is made of; `pieces` its text, each fit for one message, beside
    `images`; `alone` the same where no images can go along; `feedback` asks for thumbs.
    """

    keys: frozenset[str]
    pieces: tuple[str, ...]
    images: tuple[bytes, ...]
    alone: tuple[str, ...]
    feedback: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show: silence."""
        return not self.alone

    @classmethod
    def of(cls, parts: Sequence[Outgoing]) -> Answer:
        """The answer that consists of these parts."""
        shown = [part for part in parts if _image(part)][:MAX_IMAGES]
        markdown = any(part.markdown for part in parts)
        alone = _pieces((part.text for part in parts), markdown)
        beside = (part.text for part in parts if part not in shown)
        return cls(
            keys=frozenset(part.key for part in parts),
            pieces=_pieces(beside, markdown) if shown else alone,
            images=tuple(_image(part) for part in shown),
            alone=alone,
            feedback=any(part.feedback for part in parts),
        )


def _image(part: Outgoing) -> bytes:
    """The image that a part is, if WeCom shows such ones."""
    item = part.attachment
    if item is None or item.kind != "image" or len(item.data) > MAX_IMAGE:
        return b""
    return item.data if item.data.startswith(JPEG_OR_PNG) else b""


def _pieces(texts: Iterable[str], markdown: bool) -> tuple[str, ...]:
    return tuple(split_text(_joined(texts), MAX_CONTENT, "bytes", markdown=markdown))


def _joined(texts: Iterable[str]) -> str:
    return clean_text("\n\n".join(text for text in texts if text.strip()))


def _fitting(text: str) -> str:
    """The beginning that one message takes, not cut inside a character: a growing text never shrinks."""
    return text.encode()[:MAX_CONTENT].decode(errors="ignore")


class Stream:
    """One answer on its way to WeCom.

    `asked_at` is when WeCom last asked (monotonic), `waited` for how many seconds it has waited already;
    `offered` tells that thumbs were offered with it.
    It ends in one of two ways: WeCom takes the whole answer, or the stream is closed without.
    """

    def __init__(self, name: str, inbox_id: int, asked_at: float, waited: float = 0.0) -> None:
        self.id = name
        self.inbox_id = inbox_id
        self.asked_at = asked_at
        self.opened_at = time.monotonic() - waited
        self.answer: Answer | None = None
        self.offered = False
        self._said: dict[str, str] = {}
        self._growing = ""
        self._written = ""
        self._ending: str | None = None
        self._taken = False
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def age(self) -> float:
        """Seconds since WeCom began to wait for it."""
        return time.monotonic() - self.opened_at

    @property
    def content(self) -> str:
        """The text to show now: of the answer, of the end without it, or what there is so far."""
        if self._ending is not None:
            return self._ending
        if self.answer is not None:
            return self.answer.pieces[0] if self.answer.pieces else ""
        return _fitting(_joined((*self._said.values(), self._growing)))

    @property
    def finished(self) -> bool:
        """Whether nothing will follow in this stream."""
        return self.answer is not None or self._ending is not None

    @property
    def answered(self) -> bool:
        """Whether what it shows now is the answer."""
        return self.answer is not None and self._ending is None

    def body(self) -> dict[str, Any]:
        """The reply that shows it as it stands, for `encoded`."""
        stream: dict[str, Any] = {"id": self.id, "finish": self.finished, "content": self.content}
        if self.answered and self.answer is not None and self.answer.images:
            stream["msg_item"] = list(self.answer.images)
        return {"msgtype": "stream", "stream": stream}

    # -- the bot's side ---------------------------------------------------------------------

    def say(self, key: str, text: str) -> None:
        """Show a part that others will follow; the same key is shown once."""
        self._said[key] = text

    def grow(self, text: str) -> None:
        """Show the text so far of the part that is being written."""
        self._growing = text

    def finish(self, answer: Answer) -> None:
        """This is the whole answer; the first one counts."""
        if self.answer is None:
            self.answer = answer
            self._settled.set()

    def close(self, ending: str | None = None) -> None:
        """End it without the whole answer: with a text, or as it was last shown."""
        if self._ending is None:
            self._ending = self._written if ending is None else _fitting(ending)
            self._settled.set()
            self._ended.set()

    async def taken(self, patience: float) -> bool:
        """Whether WeCom takes the whole answer before it has not asked for so many seconds."""
        while not self._ended.is_set():
            left = self.asked_at + patience - time.monotonic()
            if left <= 0:
                return False
            await _within(self._ended, left)
        return self._taken

    # -- WeCom's side -----------------------------------------------------------------------

    def asked(self) -> None:
        """WeCom asks for it."""
        self.asked_at = time.monotonic()

    async def settled(self, seconds: float) -> None:
        """Wait so long at most for the whole answer."""
        await _within(self._settled, seconds)

    def written(self, content: str, *, whole: bool) -> None:
        """WeCom has been sent this text, and all of the answer if `whole`."""
        self._written = content
        if whole:
            self._taken = True
            self._ended.set()
            if self.answer is not None:
                self.answer = replace(self.answer, images=())  # they are large and not asked for again


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def encoded(body: Mapping[str, Any]) -> bytes:
    """A reply as JSON. Images are only now encoded: where there are some it belongs on another thread."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_msg_item).encode()


def _msg_item(image: bytes) -> dict[str, Any]:
    digest = hashlib.md5(image, usedforsecurity=False).hexdigest()
    return {"msgtype": "image", "image": {"base64": base64.b64encode(image).decode(), "md5": digest}}


class Streams:
    """The streams of one robot by id; old ones are forgotten, and the oldest where there are too many."""

    def __init__(self, *, keep: float = KEEP, capacity: int = CAPACITY) -> None:
        self._keep = keep
        self._capacity = capacity
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    def get(self, name: str) -> Stream | None:
        """The stream, while it is remembered."""
        return self._streams.get(name)

    def open(self, name: str, inbox_id: int, asked_at: float, waited: float = 0.0) -> Stream:
        """A new stream, for which WeCom waits for so many seconds already."""
        while self._streams:
            oldest = next(iter(self._streams.values()))
            if oldest.age < self._keep and len(self._streams) < self._capacity:
                break
            del self._streams[oldest.id]
        stream = self._streams[name] = Stream(name, inbox_id, asked_at, waited)
        return stream

    def __len__(self) -> int:
        return len(self._streams)


class Taken:
    """The answers that WeCom has taken from their streams, by stream; each for `REMEMBER` seconds.

    Streams are forgotten sooner, and the part that stands for an answer may wait behind others of its chat.
    """

    def __init__(self, *, capacity: int = 5 * CAPACITY) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, tuple[float, frozenset[str], tuple[str, ...]]] = OrderedDict()

    def note(self, stream: Stream) -> None:
        """WeCom has taken the answer of a stream."""
        if stream.answer is None or stream.id in self._answers:
            return
        now = time.monotonic()
        while self._answers:
            name, (since, *_) = next(iter(self._answers.items()))
            if now - since < REMEMBER and len(self._answers) < self._capacity:
                break
            del self._answers[name]
        self._answers[stream.id] = (now, stream.answer.keys, stream.answer.pieces[1:])

    def rest(self, stream: str, key: str) -> tuple[str, ...] | None:
        """What was left over of an answer that has this part; None for one that WeCom did not take."""
        _, keys, rest = self._answers.get(stream, (0.0, frozenset[str](), ()))
        return rest if key in keys else None
