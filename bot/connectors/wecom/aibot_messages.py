"""From what an intelligent robot's callback holds to a Message; never raises, whatever it holds.

Sources: path/100719 (messages), path/101027 (events).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import structlog
from yarl import URL

from bot.connectors.fields import integer, items, mapping, string
from bot.message import Chat, Message, Segment, User

log = structlog.get_logger(__name__)
KIND = "wecom-aibot"
MAX_IDENTITY = 128
_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_PRINTABLE = re.compile("[\x21-\x7e]{1,2048}")
_INBOX_ID = re.compile("[0-9]{1,18}")
_FIRST_MENTION = re.compile(r"\s*@\S+(?:\s+|$)")
_VOTES = {1: "up", 2: "down"}


@dataclass(frozen=True, slots=True)
class Refresh:
    """WeCom asks for the text so far of a stream."""

    stream: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """What is acknowledged and forgotten; `expected` where there is nothing wrong with it."""

    reason: str
    expected: bool = False


def answered_by(message: Message) -> Literal["stream", "text", ""]:
    """What the response to a message's callback may hold: "" is nothing [101031]."""
    if message.event == "entered":
        return "text"
    return "" if message.event or "event_key" in message.data else "stream"


class Reader:
    """Reads the callbacks of one robot; `name` is its name in the config, `robot_name` that in WeCom."""

    def __init__(self, name: str, robot_name: str | None, api_base: str) -> None:
        self._name = name
        self._api_base = URL(api_base)
        # A name may have blanks; what only begins with it, or ends in it like an address, is another's.
        mention = rf"(?<!\S)@{re.escape(robot_name)}(?:\s+|$)" if robot_name else ""
        self._mention = re.compile(mention) if mention else None

    def read(self, plain: bytes) -> Message | Refresh | Ignored:
        """What a decrypted callback asks for."""
        try:
            body = json.loads(plain.decode())
        except (ValueError, RecursionError):
            return Ignored("what is no JSON")
        kind = string(mapping(body).get("msgtype"))
        if kind == "stream":
            stream = string(mapping(body["stream"]).get("id")) if "stream" in body else ""
            return Refresh(stream) if _ID.fullmatch(stream) else Ignored("a refresh of no stream")
        message = self._sender(mapping(body), plain)
        if message is None:
            return Ignored("a message from nobody or from no chat")
        return self._event(message, body) if kind == "event" else self._said(message, body)

    def _sender(self, body: Mapping[str, Any], plain: bytes) -> dict[str, Any] | None:
        """The fields of a Message that all callbacks have in common, None where one is missing.

        The delivery is fit to be a stream's id: msgid itself or its digest (a real one has / and =).
        """
        user, chat = string(mapping(body.get("from")).get("userid")), string(body.get("chatid"))
        group = body.get("chattype") == "group"
        place = chat if group else user
        if not (0 < len(user) <= MAX_IDENTITY and 0 < len(place) <= MAX_IDENTITY):
            return None
        msgid = string(body.get("msgid"))
        given = msgid.encode("utf-8", "surrogatepass") or plain
        delivery = msgid if _ID.fullmatch(msgid) else hashlib.sha256(given).hexdigest()
        return {
            "connector": KIND,
            "bot": self._name,
            "delivery": delivery,
            "id": delivery,
            "chat": Chat(place, group=group),
            "user": User(user),
            "time": float(max(0, integer(body.get("create_time")) or 0)),
            "return_path": self._return_path(string(body.get("response_url"))),
        }

    def _said(self, sender: Mapping[str, Any], body: Mapping[str, Any]) -> Message | Ignored:
        pieces = list(_pieces(body))
        if not pieces:
            return Ignored("a message of an unknown type")
        text = "\n".join(piece for piece in pieces if isinstance(piece, str))
        quoted = "\n".join(piece for piece in _pieces(mapping(body.get("quote"))) if isinstance(piece, str))
        return Message(
            **sender,
            text=self._without_mention(text) if sender["chat"].group else text,
            segments=tuple(piece for piece in pieces if isinstance(piece, Segment)),
            mentioned=True,  # nothing else is passed on to a robot
            data={"quote": quoted} if quoted else {},
        )

    def _without_mention(self, text: str) -> str:
        """The text less the robot's own name; less the first one, where it is not told its name."""
        if self._mention is not None:
            return self._mention.sub("", text, count=1)
        first = _FIRST_MENTION.match(text)
        return text[first.end() :] if first else text

    def _event(self, sender: Mapping[str, Any], body: Mapping[str, Any]) -> Message | Ignored:
        event = mapping(body.get("event"))
        kind = string(event.get("eventtype"))
        content = mapping(event.get(kind))
        match kind:
            case "enter_chat":
                return Message(**sender, text="", event="entered")
            case "feedback_event":
                data = _feedback(content)
                return Message(**sender, text="", event="feedback", data=data) if data else _NO_VOTE
            case "template_card_event" if key := string(content.get("event_key")):
                data = {"event_key": key, "task_id": string(content.get("task_id"))}
                return Message(**sender, text=key, mentioned=True, data=data)
            case _:
                return Ignored("an event that nothing is done about")

    def _return_path(self, url: str) -> str:
        """A response_url of the API that is configured; any other would have the bot call anywhere."""
        if url and not is_within(url, self._api_base):
            log.warning("a response_url outside api_base is not used", bot=self._name)
            return ""
        return url


_NO_VOTE = Ignored("a vote that was taken back or is for no answer", expected=True)


def is_within(url: str, base: URL) -> bool:
    """Whether a URL is of the same scheme, host and port, and has nothing that programs read differently."""
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        return False
    try:
        given = URL(url)
        same = (given.scheme, given.host, given.port) == (base.scheme, base.host, base.port)
    except ValueError:
        return False
    return same and given.user is None and given.password is None and not given.fragment


def _pieces(body: Mapping[str, Any]) -> Iterator[str | Segment]:
    """The texts and media of a message or a quotation; nothing for a type that is not known."""
    kind = string(body.get("msgtype"))
    content = mapping(body.get(kind))
    if kind == "mixed":
        for item in map(mapping, items(content.get("msg_item"))):
            if item.get("msgtype") != "mixed":
                yield from _pieces(item)
    elif kind in ("text", "voice"):
        yield string(content.get("content"))
    elif kind in ("image", "file", "video"):
        medium = cast(Literal["image", "file", "video"], kind)
        yield Segment(medium, ref=string(content.get("url")))


def _feedback(vote: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts of a vote on an answer, whose feedback id is the inbox id of its question."""
    given = _VOTES.get(integer(vote.get("type")) or 0)
    answered = string(vote.get("id"))
    if given is None or not _INBOX_ID.fullmatch(answered):
        return None
    reasons = [reason for reason in items(vote.get("inaccurate_reason_list")) if integer(reason) is not None]
    return {
        "vote": given,
        "inbox_id": int(answered),
        "comment": string(vote.get("content")),
        "reasons": reasons,
    }
