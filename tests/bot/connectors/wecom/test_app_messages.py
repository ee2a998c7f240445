"""What the fields of an application's callback mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.app_messages import MAX_USER, Ignored, KfEvent, read
from bot.message import Chat, Message, Segment, User

AGENT = 1000002
TEXT = {
    "ToUserName": "wwcorp",
    "FromUserName": "zhangsan",
    "CreateTime": "1348831860",
    "MsgType": "text",
    "Content": "退款要多久?",
    "MsgId": "7600000000000000001",
    "AgentID": str(AGENT),
}
KNOWN = st.sampled_from(
    [*TEXT, "Event", "EventKey", "MediaId", "Location_X", "Label", "Title", "Url", "OpenKfId"]
)
VALUES = st.one_of(
    st.text(),
    st.sampled_from(["text", "event", "image", "location", "link", "subscribe", "click", "kf_msg_or_event"]),
    st.just(str(AGENT)),
)


def fields(**changes: str | None) -> dict[str, str]:
    """A text's fields with some changed, or taken out by None."""
    return {key: value for key, value in {**TEXT, **changes}.items() if value is not None}


def event(name: str, **changes: str) -> dict[str, str]:
    return fields(MsgType="event", Event=name, Content=None, MsgId=None, **changes)


def message(given: dict[str, str]) -> Message:
    item = read(given, "desk", AGENT)
    assert isinstance(item, Message)
    return item


def test_texts_without_an_id_are_told_apart_by_what_they_say() -> None:
    for none in ("0", None):
        one, other = fields(MsgId=none), fields(MsgId=none, Content="另一句")
        assert message(one).delivery == message(one).delivery != message(other).delivery
        assert message(one).delivery != message(fields(MsgId=none, CreateTime="1348831861")).delivery
        assert 0 < len(message(one).delivery) <= 128


def test_a_text_is_what_its_sender_says_in_private() -> None:
    assert message(TEXT) == Message(
        "wecom-app",
        "desk",
        "7600000000000000001",
        Chat("zhangsan"),
        User("zhangsan"),
        "退款要多久?",
        id="7600000000000000001",
        time=1348831860.0,
    )


@pytest.mark.parametrize(
    ("changes", "segment"),
    [
        ({"MsgType": "image", "PicUrl": "http://x", "MediaId": "M"}, Segment("image", ref="M")),
        ({"MsgType": "voice", "MediaId": "M", "Format": "amr"}, Segment("voice", ref="M")),
        ({"MsgType": "video", "MediaId": "M", "ThumbMediaId": "T"}, Segment("video", ref="M")),
        ({"MsgType": "file", "MediaId": "M"}, Segment("file", ref="M")),
        (
            {"MsgType": "location", "Location_X": "23.134", "Location_Y": "113.358", "Label": "广州"},
            Segment("location", "23.134,113.358 广州"),
        ),
        (
            {"MsgType": "link", "Title": "手册", "Description": "d", "Url": "http://x"},
            Segment("link", "手册", "http://x"),
        ),
    ],
)
def test_media_are_segments_without_a_text(changes: dict[str, str], segment: Segment) -> None:
    item = message(fields(Content=None, **changes))
    assert (item.text, item.segments) == ("", (segment,))


@pytest.mark.parametrize(("name", "wanted"), [("subscribe", "entered"), ("unsubscribe", "left")])
def test_membership_is_an_event(name: str, wanted: str) -> None:
    assert message(event(name)).event == wanted


def test_events_are_told_apart_by_sender_time_name_and_key() -> None:
    deliveries = {
        message(given).delivery
        for given in (
            event("subscribe"),
            event("unsubscribe"),
            event("subscribe", CreateTime="1348831861"),
            event("subscribe", FromUserName="lisi"),
            event("click", EventKey="a"),
            event("click", EventKey="b"),
        )
    }
    assert len(deliveries) == 6
    assert message(event("subscribe")).delivery in deliveries


def test_a_click_on_the_menu_says_its_key() -> None:
    item = message(event("click", EventKey="/help"))
    assert (item.text, item.event) == ("/help", "")


@pytest.mark.parametrize("name", ["enter_agent", "view", "some_future_event"])
def test_other_events_mean_nothing(name: str) -> None:
    item = read(event(name), "desk", AGENT)
    assert isinstance(item, Ignored)
    assert name in item.reason
    assert item.expected == (name != "some_future_event")


def test_an_account_has_news() -> None:
    given = {"MsgType": "event", "Event": "kf_msg_or_event", "Token": "T", "OpenKfId": "wk1"}
    assert read(given, "desk", AGENT) == KfEvent("wk1", "T")


@pytest.mark.parametrize(
    "given",
    [
        {},
        fields(MsgType="future_type"),
        fields(AgentID="218"),
        fields(FromUserName=None),
        fields(FromUserName="u" * (MAX_USER + 1)),
    ],
)
def test_what_is_not_for_this_application_is_ignored(given: dict[str, str]) -> None:
    assert isinstance(read(given, "desk", AGENT), Ignored)


def test_a_message_that_names_no_application_is_for_this_one() -> None:
    assert message(fields(AgentID=None)).text


@given(st.dictionaries(st.one_of(KNOWN, st.text()), VALUES))
def test_nothing_raises_and_what_is_read_can_be_stored(given: dict[str, Any]) -> None:
    item = read({**TEXT, **given}, "desk", AGENT)
    read(given, "desk", AGENT)
    if isinstance(item, Message):
        assert 0 < len(item.delivery) <= 128
        assert len(item.user.id) <= MAX_USER
        assert Message.from_json(item.cleaned().to_json()) == item.cleaned()


@given(st.text(min_size=129), st.text(min_size=129))
def test_long_ids_stay_different(one: str, other: str) -> None:
    deliveries = {message(fields(MsgId=given)).delivery for given in (one, other)}
    assert len(deliveries) == len({one, other})
