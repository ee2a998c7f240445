"""Sending, completing and showing answers, and what Telegram's refusals lead to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from bot.connectors.telegram.api import BotApi
from bot.errors import MAY_HAVE_ARRIVED, ConnectorError, Undeliverable
from bot.reply import Target

PERSON = Target("telegram", "main", "5", user="5", message_id="7", delivery="42")
GROUP = Target("telegram", "main", "-100", group=True, user="5", message_id="7", delivery="42")
LONG = "a text that is long enough to be shown while it grows"


async def test_an_answer_quotes_its_question_and_shows_no_link_preview(
    api: Any, connect: Any, part: Any
) -> None:
    telegram = await connect()
    assert await telegram.send(part("see https://x.cn", message_id="7", thread="3")) == "100"
    assert api.of("sendMessage") == [
        {
            "chat_id": 5,
            "message_thread_id": 3,
            "reply_parameters": {"message_id": 7, "allow_sending_without_reply": True},
            "text": "see https://x.cn",
            "link_preview_options": {"is_disabled": True},
        }
    ]


async def test_what_may_have_arrived_is_not_tried_for_long(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    api.cut("sendMessage")
    with pytest.raises(ConnectorError) as caught:
        await telegram.send(part("answer"))
    assert caught.value.patience == MAY_HAVE_ARRIVED
    api.cut("editMessageText")
    await telegram.send(part("shown"))
    with pytest.raises(ConnectorError) as caught:
        await telegram.send(part("whole", edits="101"))
    assert caught.value.patience is None  # an edit can be made twice


async def test_what_was_never_sent_is_tried_for_as_long_as_it_takes() -> None:
    api = BotApi("http://127.0.0.1:9", SecretStr("1:t"))
    api.open()
    with pytest.raises(ConnectorError) as caught:
        await api.call("sendMessage")
    assert caught.value.patience is None
    await api.close()


async def test_later_parts_quote_nothing(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    await telegram.send(part("two", part=1, message_id="7"))
    assert "reply_parameters" not in api.of("sendMessage")[0]


async def test_markdown_goes_out_as_entities_and_plain_text_as_it_is(
    api: Any, connect: Any, part: Any
) -> None:
    telegram = await connect()
    await telegram.send(part("😀 **bold**", markdown=True))
    await telegram.send(part("😀 **plain**"))
    marked, plain = api.of("sendMessage")
    assert (marked["text"], marked["entities"]) == ("😀 bold", [{"type": "bold", "offset": 3, "length": 4}])
    assert plain["text"] == "😀 **plain**"
    assert "entities" not in plain
    assert "parse_mode" not in marked


async def test_refused_formatting_goes_out_as_plain_text(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    api.fail("sendMessage", 400, "Bad Request: can't parse entities")
    assert await telegram.send(part("**bold**", markdown=True))
    assert [call.get("entities") for call in api.of("sendMessage")][1:] == [None]
    assert api.of("sendMessage")[1]["text"] == "bold"


async def test_buttons_carry_what_can_be_checked_later(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    await telegram.send(part("答案", feedback=True, inbox_id=31, choices=("运费?" * 30, "退货?")))
    rows = api.of("sendMessage")[0]["reply_markup"]["inline_keyboard"]
    assert [[button["callback_data"] for button in row] for row in rows] == [
        ["ask:0"],
        ["ask:1"],
        ["vote:up:31", "vote:down:31"],
    ]
    assert rows[0][0]["text"] == "运费?" * 30
    assert rows[2][0]["text"] == "👍 有帮助"


async def test_feedback_can_be_switched_off(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect(feedback=False)
    await telegram.send(part(feedback=True, inbox_id=31))
    assert "reply_markup" not in api.of("sendMessage")[0]


async def test_a_shown_message_is_completed(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    shown = await telegram.send(part("so far"))
    assert await telegram.send(part("so far, and the rest", edits=shown)) == shown
    assert [message["text"] for message in api.messages.values()] == ["so far, and the rest"]


async def test_an_edit_that_changes_nothing_is_a_success(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    shown = await telegram.send(part("whole"))
    assert await telegram.send(part("whole", edits=shown)) == shown
    assert len(api.messages) == 1


async def test_an_answer_whose_shown_message_is_gone_is_sent_anew(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    assert await telegram.send(part("whole", edits="77", message_id="7")) == "100"
    assert api.of("sendMessage")[0]["reply_parameters"]["message_id"] == 7


async def test_flood_control_holds_that_chat_only(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    api.fail("sendMessage", 429, "Too Many Requests", retry_after=30)
    for _ in range(2):
        with pytest.raises(ConnectorError) as caught:
            await telegram.send(part(chat="5"))
        assert caught.value.retry_after == pytest.approx(30, abs=2)
        assert not isinstance(caught.value, Undeliverable)
    assert len(api.of("sendMessage")) == 1
    await telegram.typing(PERSON)
    assert await telegram.progress(PERSON, LONG, None) is None
    assert not api.of("sendChatAction") + api.of("sendMessageDraft")
    assert await telegram.send(part(chat="6"))


@pytest.mark.parametrize("code", [400, 403])
async def test_what_will_never_arrive_is_not_tried_again(
    api: Any, connect: Any, part: Any, code: int
) -> None:
    telegram = await connect()
    api.fail("sendMessage", code, "Forbidden: bot was blocked by the user")
    with pytest.raises(Undeliverable) as caught:
        await telegram.send(part())
    assert caught.value.code == code


@pytest.mark.parametrize("code", [401, 404, 500, 502])
async def test_other_failures_are_to_be_tried_again(api: Any, connect: Any, part: Any, code: int) -> None:
    telegram = await connect()
    api.fail("sendMessage", code)
    with pytest.raises(ConnectorError) as caught:
        await telegram.send(part())
    assert not isinstance(caught.value, Undeliverable)


async def test_an_unreachable_platform_is_an_error_without_the_token(connect: Any, part: Any) -> None:
    telegram = await connect(api_base="http://127.0.0.1:9")
    with pytest.raises(ConnectorError) as caught:
        await telegram.send(part())
    error: BaseException | None = caught.value
    while error is not None:
        assert "TEST-token" not in f"{error!r} {error}"
        error = error.__cause__


async def test_answers_follow_an_upgraded_group(api: Any, inlet: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    api.migrated[-7] = -1007
    for _ in range(2):
        assert await telegram.send(part(chat="-7", group=True, message_id="7"))
    assert inlet.moves == [("-7", "-1007")]
    assert [call["chat_id"] for call in api.of("sendMessage")] == [-7, -1007, -1007]
    assert not any("reply_parameters" in call for call in api.of("sendMessage")[1:])


async def test_a_growing_answer_is_a_draft_in_private_chats(api: Any, connect: Any) -> None:
    telegram = await connect()
    assert await telegram.progress(PERSON, "short", None) is None
    draft = api.of("sendMessageDraft")[0]
    assert draft["draft_id"] != 0
    assert (draft["chat_id"], draft["text"]) == (5, "short")
    assert await telegram.progress(PERSON, "short and more", None) is None
    assert len(api.of("sendMessageDraft")) == 1  # too soon


@pytest.mark.parametrize("code", [400, 404, 500])
async def test_where_drafts_are_unknown_a_message_is_edited(api: Any, connect: Any, code: int) -> None:
    telegram = await connect()
    api.fail("sendMessageDraft", code)
    assert await telegram.progress(PERSON, LONG, None) is None
    other = Target("telegram", "main", "6", message_id="1")
    assert await telegram.progress(other, LONG, None) == "100"
    assert len(api.of("sendMessageDraft")) == 1


async def test_a_growing_answer_is_an_edited_message_in_groups(api: Any, connect: Any) -> None:
    telegram = await connect()
    assert await telegram.progress(GROUP, "too short", None) is None
    shown = await telegram.progress(GROUP, LONG, None)
    assert shown == "100"
    assert api.of("sendMessage")[0]["reply_parameters"]["message_id"] == 7
    assert await telegram.progress(GROUP, LONG + " and more", shown) == shown
    assert not api.of("editMessageText")  # too soon


async def test_a_growing_answer_stays_within_one_message(api: Any, connect: Any) -> None:
    telegram = await connect()
    shown = await telegram.progress(GROUP, "😀" * 5000, None)
    assert shown is not None
    assert len(api.of("sendMessage")[0]["text"]) == 2048


async def test_a_first_text_that_may_have_arrived_is_not_shown_again(
    api: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.connectors.telegram.limits.SHOW_EVERY_IN_GROUPS", 0.0)
    telegram = await connect()
    api.cut("sendMessage")
    assert await telegram.progress(GROUP, LONG, None) is None
    assert await telegram.progress(GROUP, LONG + " and more", None) is None
    assert len(api.of("sendMessage")) == 1


async def test_showing_never_fails_an_answer(api: Any, connect: Any) -> None:
    telegram = await connect()
    api.fail("sendMessage", 500)
    api.fail("sendChatAction", 502)
    assert await telegram.progress(GROUP, LONG, None) is None
    await telegram.typing(GROUP)
    assert api.of("sendChatAction")[0] == {"chat_id": -100, "action": "typing"}


async def test_an_unstorable_character_is_replaced(api: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    await telegram.send(part("a\ud800b\x00"))
    assert api.of("sendMessage")[0]["text"] == "a\ufffdb\ufffd"
