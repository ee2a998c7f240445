"""What the items of sync_msg mean, down to items that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.kf_messages import SendFailed, StateChange, read, session
from bot.message import Message, Segment
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, event, said
from tests.bot.connectors.wecom.qyapi import KF

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["text", "image", "voice", "link", "location", "event", "miniprogram", "channels"])
EVENTS = st.sampled_from(["enter_session", "session_status_change", "msg_send_fail", "user_recall_msg"])
CONTENT = JSON | st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "menu_id": JSON | st.sampled_from(["vote:up:1", "vote:down:x", "vote:up:99999999999999999999"]),
        "media_id": JSON,
        "latitude": JSON,
        "longitude": JSON,
        "event_type": EVENTS | JSON,
        "external_userid": JSON,
        "welcome_code": JSON,
        "fail_type": JSON,
    },
)
ITEM = st.builds(
    lambda kind, content, more: {
        "msgid": "m",
        "external_userid": "u",
        "msgtype": kind,
        kind: content,
        **more,
    },
    KINDS,
    CONTENT,
    st.fixed_dictionaries(
        {"origin": st.sampled_from([3, 4, 5]) | JSON},
        optional={"msgid": JSON, "external_userid": JSON, "open_kfid": JSON, "send_time": JSON},
    ),
)


def meant(item: Any) -> Message:
    found = read(item, "care", KF)
    assert isinstance(found, Message)
    return found


def test_a_customers_text_becomes_a_message_of_a_private_chat() -> None:
    item = said(" 几点开门？ ")
    message = meant(item)
    assert (message.connector, message.bot, message.event) == ("wecom-kf", "care", "")
    assert message.text == "几点开门？"
    assert message.delivery == message.id == item["msgid"]
    assert (message.chat.id, message.chat.group, message.user.id) == (CUSTOMER, False, CUSTOMER)
    assert message.time == item["send_time"]


@pytest.mark.parametrize(
    "item",
    [
        said("staff says hi", origin=5),
        said("not an event", origin=4),
        said("who knows", origin=1),
        said("another account", open_kfid="wkOther"),
        said("nobody", external_userid=""),
        said("no id", msgid=""),
        event("enter_session"),
        event("enter_session", welcome_code=""),
        event("user_recall_msg", recall_msgid="m1"),
        event("some_future_event"),
        "not even an object",
    ],
)
def test_what_is_not_said_to_the_bot_is_nothing(item: Any) -> None:
    assert read(item, "care", KF) is None


@pytest.mark.parametrize("vote", ["up", "down"])
def test_a_tap_on_a_thumb_is_feedback_on_that_answer(vote: str) -> None:
    message = meant(said(text={"content": "👍 有帮助", "menu_id": f"vote:{vote}:42"}))
    assert (message.event, message.text) == ("feedback", "")
    assert message.data == {"vote": vote, "inbox_id": 42, "message_id": ""}


@pytest.mark.parametrize("menu_id", ["ask:0", "vote:up:", "vote:up:4x", "vote:no:4", "else", None, 7])
def test_any_other_tap_says_its_text(menu_id: Any) -> None:
    message = meant(said(text={"content": "怎么退货？", "menu_id": menu_id}))
    assert (message.event, message.text) == ("", "怎么退货？")


@pytest.mark.parametrize(
    ("kind", "content", "segment"),
    [
        ("image", {"media_id": "M1"}, Segment("image", ref="M1")),
        ("voice", {"media_id": "M2"}, Segment("voice", ref="M2")),
        ("video", {"media_id": "M3"}, Segment("video", ref="M3")),
        ("file", {"media_id": "M4"}, Segment("file", ref="M4")),
        (
            "location",
            {"latitude": 39.908823, "longitude": 116.39747, "name": "天安门", "address": "东城区"},
            Segment("location", "39.908823,116.39747 天安门 东城区"),
        ),
        ("link", {"title": "页", "url": "https://e.com"}, Segment("link", "页", "https://e.com")),
        ("miniprogram", {"title": "店", "pagepath": "p/i"}, Segment("link", "店", "p/i")),
        ("business_card", {"userid": "li"}, Segment("link", "", "li")),
    ],
)
def test_media_become_segments(kind: str, content: dict[str, Any], segment: Segment) -> None:
    message = meant(said(msgtype=kind, **{kind: content}))
    assert (message.text, message.segments) == ("", (segment,))


def test_what_is_not_known_yet_is_still_a_message_to_be_answered() -> None:
    message = meant(said(msgtype="hologram", hologram={"content": "x"}))
    assert (message.text, message.segments, message.event) == ("", (), "")


def test_who_enters_and_may_be_welcomed_has_entered() -> None:
    message = meant(event("enter_session", welcome_code="CODE", scene="shop", scene_param="a=1"))
    assert (message.event, message.return_path) == ("entered", "welcome:CODE")
    assert message.data == {"scene": "shop", "scene_param": "a=1"}
    assert message.chat.id == CUSTOMER


@pytest.mark.parametrize(("change", "state"), [(1, 3), (2, 3), (3, 4), (4, 3), (9, None), ("3", None)])
def test_a_change_of_hands_says_what_it_can_of_who_has_the_talk_now(change: Any, state: int | None) -> None:
    item = event("session_status_change", change_type=change)
    assert read(item, "care", KF) == StateChange(CUSTOMER, item["msgid"], float(item["send_time"]), state)


@pytest.mark.parametrize(
    ("state", "holder"), [(0, "bot"), (1, "bot"), (2, "waiting"), (3, "people"), (4, "nobody")]
)
def test_who_has_a_talk_is_told_in_the_cores_words(state: int, holder: str) -> None:
    told = session("care", CUSTOMER, "m1", state)
    assert (told.event, told.chat.id, dict(told.data)) == ("session", CUSTOMER, {"holder": holder})


def test_a_message_that_did_not_arrive_is_told() -> None:
    item = event("msg_send_fail", fail_msgid="m9", fail_type=10)
    assert read(item, "care", KF) == SendFailed(CUSTOMER, "m9", 10, float(item["send_time"]))


@given(JSON | ITEM)
def test_whatever_an_item_is_reading_it_raises_nothing_and_gives_what_can_be_stored(item: Any) -> None:
    found = read(item, "care", KF)
    if isinstance(found, Message):
        again = Message.from_json(found.cleaned().to_json())
        assert again.delivery == found.cleaned().delivery
