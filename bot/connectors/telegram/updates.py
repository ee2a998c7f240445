"""From a Telegram update to what the core or the connector should do about it; never raises on odd ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bot.connectors.fields import integer, items, mapping, string
from bot.connectors.telegram.buttons import Chosen, Rated, Vote, pressed
from bot.message import Chat, Message, Segment, User

KIND = "telegram"
KINDS = ("message", "callback_query", "my_chat_member", "message_reaction")
"""The updates asked for; edited messages and channel posts are not among them."""

_MEDIA: Mapping[str, Any] = {
    "photo": "image",
    "sticker": "sticker",
    "voice": "voice",
    "audio": "voice",
    "video": "video",
    "video_note": "video",
    "animation": "video",
    "document": "file",
    "location": "location",
}
_OTHER_CONTENT = ("contact", "dice", "game", "poll", "story", "paid_media", "checklist")
_MEMBER = ("creator", "administrator", "member", "restricted")
_AFTER_MENTION = " ,，:：、\t\n"


@dataclass(frozen=True, slots=True)
class Me:
    """Who the bot is on the platform (getMe)."""

    id: int
    username: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A group became a supergroup and has another id now."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Press:
    """A button was pressed: answer the query with the catalogue text `toast` ("" for none)."""

    query: str
    toast: str
    language: str | None
    message: Message | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the updates of one bot; `name` is its name in the config.

    `rated` finds the inbox id that a message of the bot answers, by chat and message id.
    """

    me: Me
    name: str
    rated: Callable[[str, str], int | None]

    def read(self, update: Mapping[str, Any]) -> Message | Moved | Press | None:
        """What an update asks for; None when it is to be confirmed and forgotten."""
        number = integer(update.get("update_id"))
        kind = next((kind for kind in KINDS if kind in update), None)
        if number is None or kind is None:
            return None
        content = mapping(update[kind])
        match kind:
            case "message":
                return self._message(content, str(number))
            case "callback_query":
                return self._press(content, str(number))
            case "message_reaction":
                return self._reaction(content, str(number))
            case _:
                return self._membership(content, str(number))

    def _message(self, message: Mapping[str, Any], delivery: str) -> Message | Moved | None:
        chat, user = _chat(message), _sender(message)
        if chat is None:
            return None
        moved = _moved(message, chat)
        if moved is not None or user is None:
            return moved
        segments = _segments(message)
        if not (segments or "text" in message or any(key in message for key in _OTHER_CONTENT)):
            return None  # a service message
        said = self._said(message)
        if said is None:
            return None
        text, named = said
        reply_to, to_mine = self._reply(message)
        mentioned = named or to_mine
        if not text and ("media_group_id" in message or (chat.group and not mentioned)):
            return None  # an album is answered by its caption; what nobody asks the bot is no question
        return Message(
            KIND,
            self.name,
            delivery,
            chat,
            user,
            text,
            id=_id(message),
            segments=segments,
            mentioned=mentioned,
            reply_to=reply_to,
            time=float(integer(message.get("date")) or 0),
        )

    def _said(self, message: Mapping[str, Any]) -> tuple[str, bool] | None:
        """(text without the bot's own name, whether it was named), None for another bot's command.

        Offsets and lengths of entities count UTF-16 units [Bot API, MessageEntity].
        """
        key = "text" if "text" in message else "caption"
        text = string(message.get(key))
        entities = items(message.get("entities" if key == "text" else "caption_entities"))
        data = text.encode("utf-16-le", "surrogatepass")
        mine = f"@{self.me.username}".casefold() if self.me.username else None
        cuts: list[tuple[int, int]] = []
        for entity in map(mapping, entities):
            start, length = integer(entity.get("offset")), integer(entity.get("length"))
            if start is None or length is None:
                continue
            end = start + length
            if not 0 <= start < end <= len(data) // 2:
                continue
            piece = data[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")
            match entity.get("type"):
                case "mention" if piece.casefold() == mine:
                    cuts.append((start, end))
                case "text_mention" if mapping(entity.get("user")).get("id") == self.me.id:
                    cuts.append((start, end))
                case "bot_command" if "@" in piece:
                    command, _, target = piece.partition("@")
                    if f"@{target}".casefold() == mine:
                        cuts.append((start + len(command), end))
                    elif start == 0:
                        return None
        return _without(data, cuts).strip(), bool(cuts)

    def _reply(self, message: Mapping[str, Any]) -> tuple[str | None, bool]:
        """(the message replied to, whether the bot wrote it).

        In a forum topic every message may carry the topic's root as the message it replies to.
        """
        replied = mapping(message.get("reply_to_message"))
        root = message.get("is_topic_message") is True and _id(replied) == _id(message, "message_thread_id")
        if not _id(replied) or root:
            return None, False
        return _id(replied), mapping(replied.get("from")).get("id") == self.me.id

    def _press(self, query: Mapping[str, Any], delivery: str) -> Press | None:
        query_id = string(query.get("id"))
        if not query_id:
            return None
        message, user = mapping(query.get("message")), _user(mapping(query.get("from")))
        chat = _chat(message)
        meant = pressed(message, string(query.get("data")))
        if chat is None or user is None or meant is None:
            return Press(query_id, "feedback_expired", user.language if user else None, None)
        match meant:
            case Rated(vote, inbox_id):
                event = self._feedback(delivery, chat, user, _id(message), vote, inbox_id)
                return Press(query_id, "feedback_thanks", user.language, event)
            case Chosen(text):
                said = Message(
                    KIND, self.name, delivery, chat, user, text.strip(), id=_id(message), mentioned=True
                )
                return Press(query_id, "", user.language, said)

    def _reaction(self, reaction: Mapping[str, Any], delivery: str) -> Message | None:
        chat, user = _chat(reaction), _user(mapping(reaction.get("user")))
        given = _emojis(reaction.get("new_reaction")) - _emojis(reaction.get("old_reaction"))
        votes: dict[str, Vote] = {"👍": "up", "👎": "down"}
        vote = next((votes[emoji] for emoji in votes if emoji in given), None)
        if chat is None or user is None or vote is None:
            return None
        inbox_id = self.rated(chat.id, _id(reaction))
        return self._feedback(delivery, chat, user, _id(reaction), vote, inbox_id) if inbox_id else None

    def _feedback(
        self, delivery: str, chat: Chat, user: User, message_id: str, vote: Vote, inbox_id: int
    ) -> Message:
        data = {"vote": vote, "inbox_id": inbox_id, "message_id": message_id}
        return Message(KIND, self.name, delivery, chat, user, "", id=message_id, event="feedback", data=data)

    def _membership(self, change: Mapping[str, Any], delivery: str) -> Message | None:
        """The events `joined` and `left`: the bot was added to a chat, or removed or blocked."""
        chat, user = _chat(change), _user(mapping(change.get("from")))
        before, after = (
            mapping(change.get(key)).get("status") for key in ("old_chat_member", "new_chat_member")
        )
        was, is_now = before in _MEMBER, after in _MEMBER
        if chat is None or user is None or was == is_now:
            return None
        event = "joined" if is_now else "left"
        return Message(KIND, self.name, delivery, chat, user, "", event=event, data={"status": string(after)})


def _id(message: Mapping[str, Any], key: str = "message_id") -> str:
    number = integer(message.get(key))
    return "" if number is None else str(number)


def _chat(message: Mapping[str, Any]) -> Chat | None:
    """The chat of a message; None for channels and kinds of chats not known yet."""
    chat = mapping(message.get("chat"))
    if not _id(chat, "id") or chat.get("type") not in ("private", "group", "supergroup"):
        return None
    thread = _id(message, "message_thread_id") if message.get("is_topic_message") is True else ""
    return Chat(
        _id(chat, "id"),
        group=chat["type"] != "private",
        title=string(chat.get("title")),
        thread=thread or None,
    )


def _sender(message: Mapping[str, Any]) -> User | None:
    """Who wrote a message; None for bots and for posts forwarded from a linked channel.

    Anonymous admins and channels write in groups as `sender_chat`, with a bot in `from`.
    """
    chat = mapping(message.get("sender_chat"))
    if not _id(chat, "id"):
        return _user(mapping(message.get("from")))
    if message.get("is_automatic_forward") is True:
        return None
    return User(_id(chat, "id"), string(chat.get("title")))


def _user(user: Mapping[str, Any]) -> User | None:
    if not _id(user, "id") or user.get("is_bot") is True:
        return None
    names = (string(user.get(key)) for key in ("first_name", "last_name"))
    language = string(user.get("language_code")) or None
    return User(_id(user, "id"), " ".join(name for name in names if name), language)


def _moved(message: Mapping[str, Any], chat: Chat) -> Moved | None:
    new, old = _id(message, "migrate_to_chat_id"), _id(message, "migrate_from_chat_id")
    if new:
        return Moved(chat.id, new)
    return Moved(old, chat.id) if old else None


def _segments(message: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The media of a message; a photo comes in sizes, the largest last."""
    found: list[Segment] = []
    for key, kind in _MEDIA.items():
        if key not in message or (key == "document" and "animation" in message):
            continue
        media = message[key]
        media = mapping(items(media)[-1] if items(media) else media)
        text = string(media.get("file_name")) or string(media.get("emoji"))
        if kind == "location":
            text = f"{media.get('latitude')},{media.get('longitude')}"
        found.append(Segment(kind, text, string(media.get("file_id"))))
    return tuple(found)


def _emojis(reactions: Any) -> set[str]:
    return {string(mapping(reaction).get("emoji")) for reaction in items(reactions)}


def _without(data: bytes, cuts: list[tuple[int, int]]) -> str:
    """UTF-16-LE `data` less the ranges `cuts` (in units) and the blanks or comma that followed them."""
    text = ""
    position = 0
    for start, end in (*sorted(cuts), (len(data) // 2, len(data) // 2)):
        if start < position:
            continue
        piece = data[2 * position : 2 * start].decode("utf-16-le", "surrogatepass")
        if position and not text.strip():
            piece = piece.lstrip(_AFTER_MENTION)
        elif position and text[-1].isspace():
            piece = piece.lstrip(" ")
        text += piece
        position = end
    return text
