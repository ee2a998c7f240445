"""What an intelligent robot's callbacks mean."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bot.connectors.wecom.aibot_messages import Ignored, Reader, Refresh, answered_by, is_within
from bot.message import Chat, Message, Segment, User

BASE = "https://qyapi.weixin.qq.com"
URL_OF_RESPONSE = f"{BASE}/cgi-bin/aibot/response?response_code=RC"
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def callback(**changes: Any) -> dict[str, Any]:
    fields = {
        "msgid": "m1",
        "aibotid": "AIBOT",
        "chattype": "single",
        "from": {"userid": "zhang"},
        "response_url": URL_OF_RESPONSE,
        "msgtype": "text",
        "text": {"content": "hi"},
    }
    return fields | changes


def read(fields: Any, robot_name: str | None = "RobotA") -> Message | Refresh | Ignored:
    return Reader("robot", robot_name, BASE).read(json.dumps(fields).encode())


def message(fields: Any, robot_name: str | None = "RobotA") -> Message:
    item = read(fields, robot_name)
    assert isinstance(item, Message)
    return item


def event(kind: str, **content: Any) -> dict[str, Any]:
    return callback(msgtype="event", create_time=1_700_000_000, event={"eventtype": kind, kind: content})


def test_a_private_message() -> None:
    assert message(callback()) == Message(
        "wecom-aibot",
        "robot",
        "m1",
        Chat("zhang"),
        User("zhang"),
        "hi",
        id="m1",
        mentioned=True,
        return_path=URL_OF_RESPONSE,
    )


@pytest.mark.parametrize(
    ("robot_name", "content", "text"),
    [
        ("RobotA", "@RobotA 怎么退款？", "怎么退款？"),
        ("RobotA", "@RobotA\u2005怎么退款？", "怎么退款？"),
        ("RobotA", "@RobotA", ""),
        ("RobotA", "@RobotAB hi", "@RobotAB hi"),
        ("RobotA", "ask a@RobotA please", "ask a@RobotA please"),
        ("RobotA", "hello @RobotA how are you", "hello how are you"),
        ("RobotA", "@RobotA write @RobotA twice", "write @RobotA twice"),
        ("Robot A (1)", "@Robot A (1) hi", "hi"),
        (None, "@Whoever hi @you", "hi @you"),
        (None, "@Whoever", ""),
        (None, "no name", "no name"),
    ],
)
def test_in_a_group_the_robots_own_name_is_taken_off(robot_name: str | None, content: str, text: str) -> None:
    said = message(
        callback(chattype="group", chatid="GROUP", text={"content": content}), robot_name=robot_name
    )
    assert (said.text, said.chat, said.mentioned) == (text, Chat("GROUP", group=True), True)


def test_in_a_private_chat_a_name_stays() -> None:
    assert message(callback(text={"content": "@RobotA hi"})).text == "@RobotA hi"


def test_media_are_segments_under_their_urls() -> None:
    said = message(callback(msgtype="file", file={"url": "https://x/f"}))
    assert (said.text, said.segments) == ("", (Segment("file", ref="https://x/f"),))


def test_voice_comes_as_text() -> None:
    assert message(callback(msgtype="voice", voice={"content": "怎么退款"})).text == "怎么退款"


def test_a_mixed_message_has_text_and_images() -> None:
    pieces = [
        {"msgtype": "text", "text": {"content": "@RobotA this"}},
        {"msgtype": "image", "image": {"url": "https://x/i"}},
        {"msgtype": "text", "text": {"content": "and that"}},
    ]
    said = message(callback(msgtype="mixed", mixed={"msg_item": pieces}, chattype="group", chatid="GROUP"))
    assert (said.text, said.segments) == ("this\nand that", (Segment("image", ref="https://x/i"),))


def test_what_is_quoted_is_kept_beside_the_text() -> None:
    said = message(callback(quote={"msgtype": "text", "text": {"content": "before"}}))
    assert (said.text, said.data) == ("hi", {"quote": "before"})


@pytest.mark.parametrize("msgid", ["CAIQ16HMjQYY/NGagIOAgAMgq4KM0AI=", "x" * 65, "\ud800", "问"])
def test_an_id_that_no_stream_can_have_is_hashed(msgid: str) -> None:
    digest = hashlib.sha256(msgid.encode("utf-8", "surrogatepass")).hexdigest()
    assert message(callback(msgid=msgid)).delivery == digest


def test_without_an_id_the_content_tells_copies_apart() -> None:
    one, same, other = (message(event("enter_chat", n=n) | {"msgid": None}).delivery for n in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    "url",
    [
        "http://qyapi.weixin.qq.com/cgi-bin/aibot/response",
        "https://qyapi.weixin.qq.com.evil.example/x",
        "https://evil.example/?https://qyapi.weixin.qq.com",
        "https://qyapi.weixin.qq.com@evil.example/",
        "https://user@qyapi.weixin.qq.com/x",
        "https://qyapi.weixin.qq.com:444/x",
        "https://evil.example\\@qyapi.weixin.qq.com/",
        "https://qyapi.weixin.qq.com/x\r\nHost: evil",
        "//qyapi.weixin.qq.com/x",
        "https://qyapi.weixin.qq.com:99999/",
        "https://[/",
        "/cgi-bin/aibot/response",
    ],
)
def test_a_response_url_outside_api_base_is_not_used_and_the_message_is_answered_all_the_same(
    url: str,
) -> None:
    said = message(callback(response_url=url))
    assert (said.text, said.return_path) == ("hi", "")


def test_the_default_port_may_be_written_out() -> None:
    assert is_within("https://qyapi.weixin.qq.com:443/x", URL(BASE))


def test_a_refresh_names_its_stream() -> None:
    assert read({"msgid": "m2", "msgtype": "stream", "stream": {"id": "m1"}}) == Refresh("m1")


def test_entering_a_chat() -> None:
    entered = message(event("enter_chat"))
    assert (entered.event, entered.time, answered_by(entered)) == ("entered", 1_700_000_000.0, "text")


@pytest.mark.parametrize(("kind", "vote"), [(1, "up"), (2, "down")])
def test_a_vote_names_the_answer_and_the_reasons(kind: int, vote: str) -> None:
    voted = message(
        event("feedback_event", id="17", type=kind, content="bad", inaccurate_reason_list=[2, "x"])
    )
    facts = {"vote": vote, "inbox_id": 17, "comment": "bad", "reasons": [2]}
    assert (voted.event, voted.data, answered_by(voted)) == ("feedback", facts, "")


@pytest.mark.parametrize(
    "content", [{"id": "17", "type": 3}, {"id": "F", "type": 1}, {"id": "１７", "type": 1}]
)
def test_a_vote_taken_back_or_for_no_answer_is_as_if_nothing_had_been(content: dict[str, Any]) -> None:
    item = read(event("feedback_event", **content))
    assert isinstance(item, Ignored)
    assert item.expected


def test_a_click_on_a_card_says_its_key() -> None:
    clicked = message(event("template_card_event", event_key="yes", task_id="t1"))
    assert (clicked.text, clicked.event, answered_by(clicked)) == ("yes", "", "")


@pytest.mark.parametrize(
    "fields",
    [
        callback(msgtype="future", future={}),
        event("future"),
        callback(chattype="group"),
        callback(**{"from": {"userid": ""}}),
        callback(**{"from": {"userid": "x" * 129}}),
        {"msgtype": "stream"},
        [],
        7,
    ],
)
def test_what_is_not_known_is_ignored(fields: Any) -> None:
    assert isinstance(read(fields), Ignored)


@pytest.mark.parametrize("plain", [b"", b"{", b"\xff", b"[" * 100_000, b'{"msgtype":' * 100_000])
def test_what_is_no_json_is_ignored(plain: bytes) -> None:
    assert isinstance(Reader("robot", None, BASE).read(plain), Ignored)


@given(st.dictionaries(st.sampled_from([*callback(), "chatid", "quote", "event", "stream", "mixed"]), values))
def test_no_field_of_an_unexpected_type_breaks_anything(changes: dict[str, Any]) -> None:
    for kind in ("text", "mixed", "event", "stream"):
        item = read(callback(msgtype=kind) | changes)
        if isinstance(item, Message):
            assert Message.from_json(item.cleaned().to_json()).delivery == item.delivery
