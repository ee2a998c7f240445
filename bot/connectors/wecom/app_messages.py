"""What an application's decrypted callback means: a message, an event, a call to fetch, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bot.message import Chat, Message, Segment, User

KIND = "wecom-app"
MAX_USER = 128
_MAX_DELIVERY = 128
_SHOWN = 32
_MEDIA: Mapping[str, Literal["image", "voice", "video", "file"]] = {
    "image": "image",
    "voice": "voice",
    "video": "video",
    "file": "file",
}
_MEMBERSHIP = {"subscribe": "entered", "unsubscribe": "left"}


@dataclass(frozen=True, slots=True)
class KfEvent:
    """A customer service account has something new to fetch with this token."""

    kf_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Acknowledged, and nothing else; `expected` is what is seen every day."""

    reason: str
    expected: bool = False


def read(fields: Mapping[str, str], name: str, agent_id: int) -> Message | KfEvent | Ignored:
    """What the fields of a callback mean to the application `agent_id`, called `name` in the config.

    Messages carry an id that is the same in every copy; events do not, they are told apart by sender,
    time, event and key (developer document 90238), and a message without an id by all it says. A click on
    a menu entry says what its key says. Never raises.
    """
    kind, agent, user = fields.get("MsgType", ""), fields.get("AgentID", ""), fields.get("FromUserName", "")
    event = fields.get("Event", "").lower() if kind == "event" else ""
    if event == "kf_msg_or_event":
        return KfEvent(fields.get("OpenKfId", ""), fields.get("Token", ""))
    if agent not in ("", str(agent_id)):
        return Ignored(f"for the application {agent[:_SHOWN]!r}, this one is {agent_id}")
    if not 0 < len(user) <= MAX_USER:
        return Ignored(f"a sender has 1 to {MAX_USER} characters")
    if kind == "text":
        return _message(fields, name, user, text=fields.get("Content", ""))
    if event in _MEMBERSHIP:
        return _message(fields, name, user, event=_MEMBERSHIP[event])
    if event == "click" and fields.get("EventKey"):
        return _message(fields, name, user, text=fields["EventKey"])
    if kind == "event":
        return Ignored(f"events of type {event[:_SHOWN]!r}", expected=event in ("enter_agent", "view"))
    segment = _segment(fields, kind)
    if segment is None:
        return Ignored(f"messages of type {kind[:_SHOWN]!r}")
    return _message(fields, name, user, segments=(segment,))


def _message(
    fields: Mapping[str, str],
    name: str,
    user: str,
    *,
    text: str = "",
    segments: tuple[Segment, ...] = (),
    event: str = "",
) -> Message:
    delivery = _delivery(fields)
    return Message(
        KIND,
        name,
        delivery,
        Chat(user),
        User(user),
        text,
        id=delivery,
        segments=segments,
        event=event,
        time=_time(fields),
    )


def _segment(fields: Mapping[str, str], kind: str) -> Segment | None:
    if kind in _MEDIA:
        return Segment(_MEDIA[kind], ref=fields.get("MediaId", ""))
    if kind == "location":
        place = f"{fields.get('Location_X', '')},{fields.get('Location_Y', '')}"
        return Segment("location", f"{place} {fields.get('Label', '')}".rstrip())
    if kind == "link":
        return Segment("link", fields.get("Title", ""), fields.get("Url", ""))
    return None


def _delivery(fields: Mapping[str, str]) -> str:
    """What the inbox dedupes on; a long one is hashed, since the inbox keeps so many characters only."""
    msgid = fields.get("MsgId", "")
    if msgid.strip("0"):
        given = msgid
    else:
        names = ("FromUserName", "CreateTime", "Event", "EventKey")
        given = ":".join(fields.get(name, "") for name in names)
        if fields.get("MsgType") != "event":  # who writes twice within a second says two things
            given += f":{_digest(repr(sorted(fields.items())))[:16]}"
    if len(given) <= _MAX_DELIVERY:
        return given
    return _digest(given)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _time(fields: Mapping[str, str]) -> float:
    """CreateTime in seconds, 0 where there is none."""
    given = fields.get("CreateTime", "")
    return float(given) if given.isascii() and given.isdigit() and len(given) <= 12 else 0.0
