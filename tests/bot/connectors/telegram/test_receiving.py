"""Receiving by long polling: what is confirmed, when, and how failures are lived through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.connectors.telegram import receiver
from bot.errors import Overloaded, StoreError

USER = {"id": 5, "is_bot": False, "first_name": "Li", "language_code": "en"}


def update(number: int, text: str = "hello", **more: Any) -> dict[str, Any]:
    chat = {"id": 5, "type": "private"}
    message = {"message_id": number, "chat": chat, "from": USER, "text": text} | more
    return {"update_id": number, "message": message}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all between tries."""
    monkeypatch.setattr(receiver, "MAX_WAIT", 0.01)
    monkeypatch.setattr(receiver, "WAIT_REFUSED", 0.01)


async def test_polling_takes_the_webhook_off_and_holds_long_polls(api: Any, connect: Any) -> None:
    telegram = await connect()
    poll = (await api.called("getUpdates"))[0]
    assert [name for name, _ in api.calls] == ["getMe", "deleteWebhook", "getUpdates"]
    assert 25 <= poll["timeout"] <= 50
    assert set(poll["allowed_updates"]) == {"message", "callback_query", "my_chat_member", "message_reaction"}
    assert "offset" not in poll
    assert telegram.status.state == "ok"


async def test_a_batch_is_confirmed_once_it_is_committed(api: Any, inlet: Any, connect: Any) -> None:
    await connect()
    await api.called("getUpdates")
    await api.push(update(10), update(11))
    assert (await inlet.next()).delivery == "11"
    assert (await api.called("getUpdates", 2))[1]["offset"] == 12


@pytest.mark.parametrize("refusal", [Overloaded(0.01), StoreError("disk full")])
async def test_what_is_not_committed_is_not_confirmed(
    api: Any, inlet: Any, connect: Any, refusal: Exception
) -> None:
    inlet.refusals.append(refusal)
    await connect()
    await api.called("getUpdates")
    await api.push(update(10))
    assert (await inlet.next()).delivery == "10"
    assert not inlet.refusals
    await api.called("getUpdates", 2)
    assert [poll.get("offset") for poll in api.of("getUpdates")] == [None, 11]


async def test_ids_that_begin_anew_after_a_quiet_time_are_taken(api: Any, inlet: Any, connect: Any) -> None:
    api.holds_polls = False
    await connect()
    await api.push(update(1000))
    await inlet.next()
    polls = await api.until(lambda: _polls_after(api, 1001, 2))
    assert polls[0] is None
    await api.push(update(5))
    assert (await inlet.next()).delivery == "5"


def _polls_after(api: Any, offset: int, number: int) -> list[int | None] | None:
    """The offsets asked for after `offset` was confirmed, once there are that many polls."""
    offsets = [poll.get("offset") for poll in api.of("getUpdates")]
    later = offsets[offsets.index(offset) + 1 :] if offset in offsets else []
    return later if len(later) >= number else None


async def test_ignored_and_odd_updates_are_confirmed(api: Any, inlet: Any, connect: Any) -> None:
    await connect()
    await api.push({"update_id": 10, "channel_post": {}}, {"update_id": 11, "message": [1]}, update(12))
    await inlet.next()
    assert [message.delivery for message in inlet.messages] == ["12"]
    await api.until(lambda: any(poll.get("offset") == 13 for poll in api.of("getUpdates")))


@pytest.mark.parametrize(("code", "hint"), [(409, "another process"), (401, "BotFather"), (500, "no")])
async def test_polling_goes_on_after_a_refusal(
    api: Any, inlet: Any, connect: Any, code: int, hint: str
) -> None:
    telegram = await connect()
    await api.called("getUpdates")
    api.fail("getUpdates", code)
    with capture_logs() as logs:
        await api.push(update(10))
        await inlet.next()
        await api.push(update(11))
        await inlet.next()
    assert [line for line in logs if line["log_level"] == "warning" and hint in line["problem"]]
    assert telegram.status.state == "ok"


async def test_starting_does_not_wait_for_the_platform(inlet: Any, connect: Any) -> None:
    telegram = await connect(api_base="http://127.0.0.1:9")
    async with asyncio.timeout(5):
        while telegram.status.state != "retrying":  # noqa: ASYNC110 - /readyz reads a plain field too
            await asyncio.sleep(0)
    assert "TEST-token" not in telegram.status.detail


async def test_a_server_that_does_not_hold_polls_is_not_hammered(api: Any, connect: Any) -> None:
    api.holds_polls = False
    await connect()
    await api.called("getUpdates", 2)
    before = len(api.of("getUpdates"))
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(api.of("getUpdates")) <= before + 1


async def test_an_upgraded_group_is_told_in_its_place(api: Any, inlet: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    old, new = {"id": -7, "type": "group"}, {"id": -1007, "type": "supergroup"}
    moved = {"update_id": 11, "message": {"chat": old, "from": USER, "migrate_to_chat_id": -1007}}
    await api.push(update(10, chat=old, text="a"), moved, update(12, chat=new, text="b"))
    await api.until(lambda: any(poll.get("offset") == 13 for poll in api.of("getUpdates")))
    assert inlet.moves == [("-7", "-1007")]
    await telegram.send(part(chat="-7", group=True))
    assert api.of("sendMessage")[0]["chat_id"] == -1007


def pressing(number: int, data: str) -> dict[str, Any]:
    buttons = [{"text": "👍", "callback_data": "vote:up:31"}]
    message = {
        "message_id": 9,
        "chat": {"id": 5, "type": "private"},
        "reply_markup": {"inline_keyboard": [buttons]},
    }
    query = {"id": f"q{number}", "from": USER, "message": message, "data": data}
    return {"update_id": number, "callback_query": query}


async def test_a_press_that_has_to_be_taken_again_is_answered_once(
    api: Any, inlet: Any, connect: Any
) -> None:
    inlet.refusals += [Overloaded(0.01), Overloaded(0.01)]
    await connect()
    await api.push(pressing(10, "vote:up:31"))
    assert (await inlet.next()).event == "feedback"
    await api.called("answerCallbackQuery")
    assert len(api.of("answerCallbackQuery")) == 1


async def test_every_press_is_answered(api: Any, inlet: Any, connect: Any) -> None:
    await connect()
    await api.push(pressing(10, "vote:up:31"), pressing(11, "vote:up:31"), pressing(12, "x" * 64))
    answers = await api.called("answerCallbackQuery", 3)
    texts = {answer["callback_query_id"]: answer["text"] for answer in answers}
    assert texts["q10"] == texts["q11"] == "Thanks for your feedback!"
    assert texts["q12"] == "This answer can no longer be rated."
    assert [message.data["vote"] for message in inlet.messages] == ["up", "up"]


async def test_a_reaction_to_a_sent_answer_is_feedback(api: Any, inlet: Any, connect: Any, part: Any) -> None:
    telegram = await connect()
    sent = await telegram.send(part(feedback=True, inbox_id=31))
    reaction = {
        "chat": {"id": 5, "type": "private"},
        "message_id": int(sent),
        "user": USER,
        "old_reaction": [],
        "new_reaction": [{"type": "emoji", "emoji": "👎"}],
    }
    await api.push({"update_id": 10, "message_reaction": reaction})
    assert (await inlet.next()).data == {"vote": "down", "inbox_id": 31, "message_id": sent}


async def test_commands_are_offered_where_telegram_can_show_them(api: Any, connect: Any) -> None:
    await connect(commands=lambda: [("help", "what I can do"), ("报修", "repair"), ("Bad-Name", "no")])
    told = await api.called("setMyCommands")
    assert told == [{"commands": [{"command": "help", "description": "what I can do"}]}]


async def test_two_bots_run_side_by_side(api: Any, inlet: Any, connect: Any) -> None:
    first, second = await connect(name="one"), await connect(name="two")
    assert {first.name, second.name} == {"one", "two"}
    await api.called("getUpdates", 2)
    await first.stop()
    assert (first.status.state, second.status.state) == ("stopped", "ok")
