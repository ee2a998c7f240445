"""The items of kf/sync_msg: what customers say to an account, and what became of their conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bot.connectors.fields import integer, mapping, string
from bot.message import Chat, Message, Segment, User, clean_text

KIND = "wecom-kf"
WELCOME = "welcome:"
"""Begins a return_path that is the code of a welcome: good for one text within 20 s."""
_CUSTOMER, _SYSTEM = 3, 4
_STATES = {1: 3, 2: 3, 3: 4, 4: 3}
"""The state after each change_type: taken from the pool, passed on, ended, taken up again (path/94670)."""
HOLDERS = {0: "bot", 1: "bot", 2: "waiting", 3: "people", 4: "nobody"}
"""Who has a conversation in each service_state, in the core's words (path/94669); a new one is the bot's."""
_VOTE = re.compile(r"vote:(up|down):([0-9]{1,18})")
_MEDIA: Mapping[str, Literal["image", "voice", "video", "file"]] = {
    "image": "image",
    "voice": "voice",
    "video": "video",
    "file": "file",
}
_LINKS = {"link": "url", "miniprogram": "pagepath", "business_card": "userid"}


@dataclass(frozen=True, slots=True)
class StateChange:
    """A customer's conversation changed hands or ended.

    `state` is what it says itself of who has it now, as far as that is known; kf/service_state/get tells
    for certain.
    """

    customer: str
    delivery: str
    time: float
    state: int | None = None


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The platform took a message of ours and then could not deliver it."""

    customer: str
    msgid: str
    reason: int | None
    time: float


def read(item: Any, name: str, kf_id: str) -> Message | StateChange | SendFailed | None:
    """What an item means for the account `kf_id`, called `name` in the config; None for nothing.

    Items of members (origin 5) are not for the bot. Never raises.
    """
    item = mapping(item)
    delivery = string(item.get("msgid"))
    if not delivery or string(item.get("open_kfid")) not in ("", kf_id):
        return None
    at = float(integer(item.get("send_time")) or 0)
    if item.get("origin") == _CUSTOMER:
        customer = clean_text(string(item.get("external_userid")))
        return _said(item, message(name, customer, delivery, at)) if customer else None
    if item.get("origin") == _SYSTEM:
        return _happened(item, name, delivery, at)
    return None


def message(name: str, customer: str, delivery: str, at: float = 0.0) -> Message:
    """A message of a customer that says nothing yet."""
    return Message(KIND, name, delivery, Chat(customer), User(customer), "", id=delivery, time=at)


def session(name: str, customer: str, delivery: str, state: int, at: float = 0.0) -> Message:
    """The event `session`: who has the conversation now, by its service_state."""
    return replace(message(name, customer, delivery, at), event="session", data={"holder": HOLDERS[state]})


def _said(item: Mapping[str, Any], blank: Message) -> Message | None:
    kind = string(item.get("msgtype"))
    content = mapping(item.get(kind))
    if kind == "event":
        return None
    if kind == "text":
        vote = _VOTE.fullmatch(string(content.get("menu_id")))
        if vote is not None:
            data = {"vote": vote[1], "inbox_id": int(vote[2]), "message_id": ""}
            return replace(blank, event="feedback", data=data)
        return replace(blank, text=string(content.get("content")).strip())
    segment = _segment(kind, content)
    return replace(blank, segments=(segment,) if segment else ())


def _segment(kind: str, content: Mapping[str, Any]) -> Segment | None:
    if kind in _MEDIA:
        return Segment(_MEDIA[kind], ref=string(content.get("media_id")))
    if kind in _LINKS:
        return Segment("link", string(content.get("title")), string(content.get(_LINKS[kind])))
    if kind == "location":
        place = ",".join(_degrees(content.get(key)) for key in ("latitude", "longitude"))
        names = (string(content.get(key)) for key in ("name", "address"))
        return Segment("location", " ".join((place, *filter(None, names))))
    return None


def _degrees(value: Any) -> str:
    return str(value) if isinstance(value, int | float) and abs(value) <= 180 else ""


def _happened(
    item: Mapping[str, Any], name: str, delivery: str, at: float
) -> Message | StateChange | SendFailed | None:
    event = mapping(item.get("event"))
    customer = string(event.get("external_userid")) or string(item.get("external_userid"))
    customer = clean_text(customer)
    if not customer:
        return None
    match event.get("event_type"):
        case "enter_session":
            code = string(event.get("welcome_code"))
            if not code:
                return None  # came back within the talk: the platform wants no welcome then
            data = {key: string(event.get(key)) for key in ("scene", "scene_param")}
            blank = message(name, customer, delivery, at)
            return replace(blank, event="entered", data=data, return_path=WELCOME + clean_text(code))
        case "session_status_change":
            state = _STATES.get(integer(event.get("change_type")) or 0)
            return StateChange(customer, delivery, at, state)
        case "msg_send_fail":
            return SendFailed(customer, string(event.get("fail_msgid")), integer(event.get("fail_type")), at)
    return None
