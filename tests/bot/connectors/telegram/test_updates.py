"""Reading updates: what a message means for the bot, and that no update can break it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.connectors.telegram.updates import KINDS, Me, Moved, Press, Reader
from bot.message import Message

ME = Me(1234, "ShopBot")
READER = Reader(ME, "main", lambda chat, message: 77 if message == "9" else None)
USER = {"id": 5, "is_bot": False, "first_name": "Li", "last_name": "Lei", "language_code": "zh-hans"}
PRIVATE = {"id": 5, "type": "private"}
GROUP = {"id": -100123, "type": "supergroup", "title": "Shop"}


def units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def entity(text: str, piece: str, kind: str, **more: Any) -> dict[str, Any]:
    """An entity over the first occurrence of `piece`."""
    return {"type": kind, "offset": units(text[: text.index(piece)]), "length": units(piece), **more}


def read(
    text: str | None = None, *entities: dict[str, Any], chat: dict[str, Any] = GROUP, **more: Any
) -> Any:
    message = {"message_id": 7, "date": 1700000000, "chat": chat, "from": USER, **more}
    if text is not None:
        message |= {"text": text, "entities": list(entities)}
    return READER.read({"update_id": 42, "message": message})


def test_a_private_text_becomes_a_message() -> None:
    message = read("运费多少", chat=PRIVATE)
    assert (message.connector, message.bot, message.delivery, message.id) == ("telegram", "main", "42", "7")
    assert (message.chat.id, message.chat.group, message.text) == ("5", False, "运费多少")
    assert (message.user.id, message.user.name, message.user.language) == ("5", "Li Lei", "zh-hans")
    assert message.time == 1700000000


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("@ShopBot 运费多少", "运费多少"),
        ("@SHOPBOT, how much", "how much"),
        ("运费多少 @shopbot", "运费多少"),
        ("😀👨‍👩‍👧 hey @ShopBot how much", "😀👨‍👩‍👧 hey how much"),
        ("line one\n@ShopBot\nline two", "line one\n\nline two"),
    ],
)
def test_the_bots_own_mention_is_taken_off(text: str, meant: str) -> None:
    name = next(word.strip(",") for word in text.split() if word.startswith("@"))
    message = read(text, entity(text, name, "mention"))
    assert (message.text, message.mentioned) == (meant, True)


def test_a_longer_name_and_a_name_without_an_entity_are_no_mention() -> None:
    longer = "@ShopBot2 hello"
    assert read(longer, entity(longer, "@ShopBot2", "mention")).mentioned is False
    assert read("mail x@ShopBot.com hello").mentioned is False


def test_a_mention_by_id_counts_for_the_bot_only() -> None:
    assert read("Bot hi", entity("Bot hi", "Bot", "text_mention", user={"id": 1234})).text == "hi"
    other = read("Bot hi", entity("Bot hi", "Bot", "text_mention", user={"id": 99}))
    assert (other.text, other.mentioned) == ("Bot hi", False)


def test_a_command_with_the_bots_name_is_for_the_bot() -> None:
    text = "/help@shopbot orders"
    message = read(text, entity(text, "/help@shopbot", "bot_command"))
    assert (message.text, message.mentioned) == ("/help orders", True)


def test_a_command_for_another_bot_is_ignored() -> None:
    assert read("/help@OtherBot", entity("/help@OtherBot", "/help@OtherBot", "bot_command")) is None


def test_captions_have_entities_of_their_own() -> None:
    caption = "@ShopBot what is this?"
    message = read(
        None,
        caption=caption,
        caption_entities=[entity(caption, "@ShopBot", "mention")],
        photo=[{"file_id": "small"}, {"file_id": "large"}],
    )
    assert (message.text, message.mentioned) == ("what is this?", True)
    assert [(part.type, part.ref) for part in message.segments] == [("image", "large")]


def test_a_reply_to_the_bot_is_for_the_bot() -> None:
    mine = read("and then?", reply_to_message={"message_id": 3, "from": {"id": 1234, "is_bot": True}})
    assert (mine.mentioned, mine.reply_to) == (True, "3")
    theirs = read("and then?", reply_to_message={"message_id": 3, "from": {"id": 8}})
    assert theirs.mentioned is False


def test_the_root_of_a_topic_is_no_reply() -> None:
    topic = {"message_thread_id": 3, "is_topic_message": True}
    message = read("hi", reply_to_message={"message_id": 3, "from": {"id": 1234}}, **topic)
    assert (message.mentioned, message.reply_to, message.chat.thread) == (False, None, "3")
    assert read("hi", message_thread_id=3).chat.thread is None


@pytest.mark.parametrize(
    "more",
    [
        {"from": {"id": 9, "is_bot": True}},
        {"chat": {"id": -1, "type": "channel"}},
        {"chat": {"id": 1, "type": "galaxy"}},
        {"sender_chat": {"id": -5, "type": "channel"}, "is_automatic_forward": True},
    ],
)
def test_bots_channels_and_unknown_chats_are_ignored(more: dict[str, Any]) -> None:
    assert read("hello", **more) is None


def test_an_anonymous_admin_is_heard_as_the_group() -> None:
    message = read("hi", **{"from": {"id": 1087968824, "is_bot": True}}, sender_chat=GROUP)
    assert (message.user.id, message.user.name) == ("-100123", "Shop")


def test_service_messages_are_ignored() -> None:
    assert read(new_chat_members=[{"id": 8}], chat=PRIVATE) is None


@pytest.mark.parametrize("key", ["edited_message", "channel_post", "some_future_update"])
def test_other_updates_are_ignored(key: str) -> None:
    assert (
        READER.read({"update_id": 1, key: {"message_id": 1, "chat": PRIVATE, "from": USER, "text": "x"}})
        is None
    )


def test_media_without_text_are_told_in_private_and_dropped_unasked_in_groups() -> None:
    sticker = {"sticker": {"file_id": "s", "emoji": "👋"}}
    message = read(chat=PRIVATE, **sticker)
    assert (message.text, message.segments[0].type) == ("", "sticker")
    assert read(chat=PRIVATE, contact={"phone_number": "1"}).text == ""
    assert read(**sticker) is None


def test_an_album_is_one_message() -> None:
    photo = {"photo": [{"file_id": "p"}], "media_group_id": "a", "chat": PRIVATE}
    assert read(**photo) is None
    assert read(caption="these", **photo).text == "these"


def test_an_upgraded_group_is_told_from_both_sides() -> None:
    assert read(migrate_to_chat_id=-100777, chat={"id": -7, "type": "group"}) == Moved("-7", "-100777")
    assert read(migrate_from_chat_id=-7, chat={"id": -100777, "type": "supergroup"}) == Moved("-7", "-100777")


def test_being_added_and_removed_are_events() -> None:
    def change(before: str, after: str) -> Any:
        member = {"chat": GROUP, "from": USER, "old_chat_member": {"status": before}}
        return READER.read(
            {"update_id": 1, "my_chat_member": member | {"new_chat_member": {"status": after}}}
        )

    assert change("left", "member").event == "joined"
    assert change("administrator", "kicked").event == "left"
    assert change("member", "administrator") is None


def press(data: str, *, message: dict[str, Any] | None = None) -> Press:
    keyboard = {
        "inline_keyboard": [
            [{"text": "Where is my parcel?", "callback_data": "ask:0"}],
            [{"text": "👍", "callback_data": "vote:up:31"}, {"text": "👎", "callback_data": "vote:down:31"}],
            [{"text": "site", "url": "https://example.org"}, {"text": "else", "callback_data": "else"}],
        ]
    }
    shown = {"message_id": 9, "date": 1, "chat": GROUP, "reply_markup": keyboard}
    query = {"id": "q", "from": USER, "message": shown if message is None else message, "data": data}
    found = READER.read({"update_id": 8, "callback_query": query})
    assert isinstance(found, Press)
    return found


def test_a_thumb_is_a_feedback_event_of_whoever_pressed_it() -> None:
    pressed = press("vote:down:31")
    assert pressed.message is not None
    assert pressed.message.event == "feedback"
    assert pressed.message.data == {"vote": "down", "inbox_id": 31, "message_id": "9"}
    assert (pressed.message.user.id, pressed.toast) == ("5", "feedback_thanks")


def test_a_choice_comes_in_as_if_the_user_had_said_it() -> None:
    pressed = press("ask:0")
    assert pressed.message is not None
    assert (pressed.message.text, pressed.message.mentioned, pressed.toast) == (
        "Where is my parcel?",
        True,
        "",
    )


@pytest.mark.parametrize("data", ["vote:up:32", "vote:up:31 ", "ask:1", "else", "x" * 64, ""])
def test_data_that_is_on_no_button_of_the_message_is_not_believed(data: str) -> None:
    assert (press(data).message, press(data).toast) == (None, "feedback_expired")


def test_a_message_that_is_out_of_reach_cannot_be_rated() -> None:
    assert press("vote:up:31", message={"message_id": 9, "date": 0, "chat": GROUP}).message is None


def test_a_reaction_to_a_known_answer_is_feedback() -> None:
    def react(message_id: int, *emojis: str) -> Any:
        new = [{"type": "emoji", "emoji": emoji} for emoji in emojis]
        reaction = {
            "chat": GROUP,
            "message_id": message_id,
            "user": USER,
            "old_reaction": [],
            "new_reaction": new,
        }
        return READER.read({"update_id": 8, "message_reaction": reaction})

    assert react(9, "🔥", "👎").data == {"vote": "down", "inbox_id": 77, "message_id": "9"}
    assert react(9, "🔥") is None
    assert react(10, "👍") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "message_id",
    "date",
    "chat",
    "from",
    "text",
    "caption",
    "entities",
    "caption_entities",
    "reply_to_message",
    "message_thread_id",
    "is_topic_message",
    "sender_chat",
    "migrate_to_chat_id",
    "migrate_from_chat_id",
    "photo",
    "sticker",
    "document",
    "location",
    "poll",
    "id",
    "type",
    "data",
    "message",
    "reply_markup",
    "inline_keyboard",
    "callback_data",
    "user",
    "new_reaction",
    "old_reaction",
    "old_chat_member",
    "new_chat_member",
    "status",
    "offset",
    "length",
)
ODD = st.dictionaries(
    st.sampled_from(FIELDS),
    JSON
    | st.sampled_from([GROUP, PRIVATE, USER, "vote:up:1"])
    | st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from([GROUP, USER]), max_size=6)
    | st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), max_size=3),
)


@given(st.sampled_from(KINDS), ODD, st.booleans())
def test_odd_updates_are_read_or_ignored_but_never_raise(
    kind: str, odd: dict[str, Any], framed: bool
) -> None:
    frame = {"message_id": 1, "chat": PRIVATE, "from": USER} if framed else {}
    assert isinstance(READER.read({"update_id": 1, kind: odd | frame}), Message | Moved | Press | None)
    assert isinstance(READER.read({"update_id": 1, kind: frame | odd}), Message | Moved | Press | None)


@given(st.text(max_size=20), st.text(max_size=20))
@example("😀", " 运费")
@example("\ud83d", "\ude00")
def test_a_mention_is_cut_out_at_utf16_offsets(before: str, after: str) -> None:
    text = f"{before}@ShopBot{after}"
    message = read(text, {"type": "mention", "offset": units(before), "length": 8})
    assert message.mentioned
    assert "".join(message.text.split()).strip(",，:：、") == "".join((before + after).split()).strip(
        ",，:：、"
    )


@given(st.text(max_size=10), st.lists(st.tuples(st.integers(-5, 15), st.integers(-5, 15)), max_size=4))
def test_entities_with_odd_bounds_do_no_harm(text: str, bounds: list[tuple[int, int]]) -> None:
    entities = [
        {"type": "text_mention", "offset": offset, "length": length, "user": {"id": 1234}}
        for offset, length in bounds
    ]
    message = read(text, *entities, chat=PRIVATE)
    assert len(message.text) <= len(text)
