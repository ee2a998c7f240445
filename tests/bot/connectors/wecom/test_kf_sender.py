"""What an account writes: once each, five at most, with menus, welcomes and media."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.compose import compose
from bot.connectors.wecom.kf_messages import read
from bot.connectors.wecom.kf_talks import Talks
from bot.errors import ConnectorError, Undeliverable
from bot.reply import Attachment, Outgoing, Reply
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, UNLISTED, Stage, part, said, staged
from tests.bot.connectors.wecom.qyapi import KF, Call, Refusal

SEND = "kf/send_msg"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


def parts(stage: Stage, reply: Reply, **place: Any) -> list[Outgoing]:
    """A reply as the outbox would hold it."""
    return compose(reply, stage.build().capabilities, part(**place).target, 42, "key")


# ---- texts ---------------------------------------------------------------------------------


async def test_a_text_goes_to_its_customer_from_this_account(stage: Stage) -> None:
    kf = stage.build()
    shown = await kf.send(part("9:00 开门"))
    (call,) = stage.platform.of(SEND)
    assert call.pop("msgid") == shown
    assert call == {
        "touser": CUSTOMER,
        "open_kfid": KF,
        "msgtype": "text",
        "text": {"content": "9:00 开门"},
    }


async def test_markdown_is_sent_as_readable_text(stage: Stage) -> None:
    await stage.build().send(part("**Open** at [nine](https://e.com)", markdown=True))
    assert stage.platform.of(SEND)[0]["text"]["content"] == "Open at nine (https://e.com)"


async def test_a_long_answer_fits_five_messages_of_2048_bytes(stage: Stage) -> None:
    kf = stage.build()
    for outgoing in parts(stage, Reply("很长的回答。" * 2000, feedback=True)):
        await kf.send(outgoing)
    texts = [call["text"]["content"] for call in stage.platform.of(SEND)]
    assert len(texts) == 5
    assert texts[-1].endswith("…")
    assert stage.platform.problems == []


async def test_the_message_id_is_an_idempotency_key_over_retries_and_restarts(stage: Stage) -> None:
    def taken_but_not_told(call: Call) -> dict[str, Any]:
        stage.platform._kf_send_msg(call)
        raise Refusal(-1, "system busy")

    stage.platform.answers[SEND] = taken_but_not_told
    for kf in (stage.build(), stage.build()):
        with pytest.raises(ConnectorError) as raised:
            await kf.send(part("once", key="a key / of 任何 kind"))
        assert not isinstance(raised.value, Undeliverable)
    del stage.platform.answers[SEND]
    await kf.send(part("once", key="a key / of 任何 kind"))
    await kf.send(part("another", key="another key"))
    *same, other = (call["msgid"] for call in stage.platform.of(SEND))
    assert len(set(same)) == 1 != len({*same, other})
    assert re.fullmatch(r"[0-9A-Za-z_-]{1,32}", other)
    assert [call["text"]["content"] for call in stage.platform.delivered.values()] == ["once", "another"]


def losing_answers(stage: Stage, method: str = SEND) -> None:
    """Let the platform take what is sent and break off before it says so."""

    def take(call: Call) -> dict[str, Any]:
        getattr(stage.platform, "_" + method.replace("/", "_"))(call)
        raise ConnectionError

    stage.platform.answers[method] = take


async def test_a_message_that_was_taken_without_an_answer_is_done_once_the_platform_refuses_it_as_known(
    stage: Stage,
) -> None:
    stage.platform.strict = True
    kf = await stage.connect()
    losing_answers(stage)
    with pytest.raises(ConnectorError):
        await kf.send(part("once"))
    del stage.platform.answers[SEND]
    stage.platform.refuse(SEND, 45009)
    with pytest.raises(ConnectorError):
        await kf.send(part("once"))
    stage.platform.say(said("hello?"))
    stage.wake(kf)
    await stage.inlet.got(1)
    shown = await kf.send(part("once"))
    assert await kf.send(part("once")) == shown
    assert [call["msgid"] for call in stage.platform.of(SEND)] == [shown] * 3
    assert [call["text"]["content"] for call in stage.platform.delivered.values()] == ["once"]


async def test_what_an_earlier_process_may_have_sent_does_not_wait_for_days(stage: Stage) -> None:
    stage.platform.strict = True
    losing_answers(stage)
    with pytest.raises(ConnectorError):
        await stage.build().send(part("once"))
    del stage.platform.answers[SEND]
    kf = stage.build()
    for _ in range(2):
        with pytest.raises(ConnectorError) as raised:
            await kf.send(part("once"))
        assert (raised.value.code, raised.value.patience) == (UNLISTED, 600)
        assert not isinstance(raised.value, Undeliverable)
    assert len(stage.platform.delivered) == 1


async def test_a_message_that_was_clearly_refused_is_not_taken_for_one_that_is_there(stage: Stage) -> None:
    kf = stage.build()
    stage.platform.refuse(SEND, 45009)
    with pytest.raises(ConnectorError):
        await kf.send(part())
    stage.platform.refuse(SEND, UNLISTED)
    with pytest.raises(ConnectorError) as raised:
        await kf.send(part())
    assert raised.value.patience == 600


async def test_a_text_that_is_there_is_not_sent_again_for_its_menu_though_the_customer_wrote(
    stage: Stage,
) -> None:
    stage.platform.strict = True
    kf = await stage.connect()
    outgoing = part("长" * 500, feedback=True, inbox_id=42)
    answers = iter([stage.platform._kf_send_msg])

    def once(call: Call) -> dict[str, Any]:
        for answer in answers:
            return answer(call)
        raise Refusal(-1, "system busy")

    stage.platform.answers[SEND] = once
    with pytest.raises(ConnectorError):
        await kf.send(outgoing)
    stage.platform.say(said("hello?"))
    stage.wake(kf)
    await stage.inlet.got(1)
    del stage.platform.answers[SEND]
    await kf.send(outgoing)
    assert [call["msgtype"] for call in stage.platform.of(SEND)] == ["text", "msgmenu", "msgmenu"]


async def test_a_menu_is_left_out_where_the_platform_says_what_nobody_knows(stage: Stage) -> None:
    def no_menus(call: Call) -> dict[str, Any]:
        if call.payload["msgtype"] == "msgmenu":
            raise Refusal(UNLISTED, "no menus today")
        return stage.platform._kf_send_msg(call)

    stage.platform.answers[SEND] = no_menus
    assert await stage.build().send(part("长" * 500, feedback=True, inbox_id=42))


@pytest.mark.parametrize(("code", "patience"), [(UNLISTED, 600), (60020, None), (-1, None)])
async def test_a_state_that_cannot_be_asked_keeps_an_answer_back_for_a_while(
    stage: Stage, code: int, patience: float | None
) -> None:
    kf = stage.build()
    await kf.hand_over(part(delivery="m0").target)
    stage.platform.refuse("kf/service_state/get", code)
    with pytest.raises(ConnectorError) as raised:
        await kf.send(part(delivery="m1"))
    assert (raised.value.code, raised.value.patience) == (code, patience)
    assert not isinstance(raised.value, Undeliverable)


async def test_a_customer_who_is_gone_is_not_waited_for(stage: Stage) -> None:
    kf = stage.build()
    await kf.hand_over(part(delivery="m0").target)
    stage.platform.refuse("kf/service_state/get", 84061)
    with pytest.raises(Undeliverable):
        await kf.send(part(delivery="m1"))


async def test_a_state_without_a_state_keeps_an_answer_back_for_a_while(stage: Stage) -> None:
    kf = stage.build()
    await kf.hand_over(part(delivery="m0").target)
    stage.platform.answers["kf/service_state/get"] = lambda call: {}
    with pytest.raises(ConnectorError) as raised:
        await kf.send(part(delivery="m1"))
    assert raised.value.patience == 600


# ---- the quota -----------------------------------------------------------------------------


async def test_the_sixth_message_is_held_and_said_so(stage: Stage) -> None:
    kf = stage.build()
    for number in range(5):
        await kf.send(part(key=f"k{number}"))
    await kf.send(part(key="k4"))  # tried again, for all the outbox knows
    with pytest.raises(Undeliverable, match="5 messages"):
        await kf.send(part(key="k5"))
    assert len(stage.platform.of(SEND)) == 5
    assert stage.lost("quota") == 1


async def test_a_new_message_of_the_customer_makes_room_for_five_more(stage: Stage) -> None:
    kf = await stage.connect()
    for number in range(5):
        await kf.send(part(key=f"k{number}"))
    stage.platform.say(said("and?"))
    stage.wake(kf)
    await stage.inlet.got(1)
    for number in range(5, 10):
        await kf.send(part(key=f"k{number}"))
    assert len(stage.platform.delivered) == 10


async def test_a_refused_message_is_not_counted_one_without_an_answer_is(stage: Stage) -> None:
    kf = stage.build()
    stage.platform.refuse(SEND, -1)
    stage.platform.cut(SEND)
    for key in ("refused", "unknown"):
        with pytest.raises(ConnectorError):
            await kf.send(part(key=key))
    for number in range(4):
        await kf.send(part(key=f"k{number}"))
    with pytest.raises(Undeliverable):
        await kf.send(part(key="k4"))


async def test_the_last_of_five_may_be_tried_again(stage: Stage) -> None:
    kf = stage.build()
    for number in range(4):
        await kf.send(part(key=f"k{number}"))
    stage.platform.cut(SEND)
    with pytest.raises(ConnectorError):
        await kf.send(part(key="k4"))
    await kf.send(part(key="k4"))
    assert len(stage.platform.delivered) == 5


def test_memory_is_bounded_whoever_was_quiet_for_longest_is_forgotten() -> None:
    talks = Talks(capacity=2)
    first, second = talks.of("a"), talks.of("b")
    assert talks.of("a") is first
    talks.of("c")
    assert talks.of("a") is first
    assert talks.of("b") is not second


async def test_a_quota_used_up_before_a_restart_is_told_by_the_platform(stage: Stage) -> None:
    stage.platform.counted[CUSTOMER] = 5
    with pytest.raises(Undeliverable) as raised:
        await stage.build().send(part())
    assert raised.value.code == 95001
    assert stage.lost("quota") == 1


async def test_a_limit_on_calls_is_waited_for(stage: Stage) -> None:
    stage.platform.refuse(SEND, 45009)
    with pytest.raises(ConnectorError) as raised:
        await stage.build().send(part())
    assert raised.value.retry_after == 60
    assert not isinstance(raised.value, Undeliverable)


@pytest.mark.parametrize(("code", "state", "holder"), [(95018, 3, "people"), (95013, 4, "nobody")])
async def test_a_talk_that_is_not_the_bots_any_more_is_reported(
    stage: Stage, code: int, state: int, holder: str
) -> None:
    kf = await stage.connect()
    stage.platform.kf_states[CUSTOMER] = state
    stage.platform.refuse(SEND, code)
    with pytest.raises(Undeliverable) as raised:
        await kf.send(part(key="lost"))
    assert raised.value.code == code
    (message,) = await stage.inlet.got(1)
    assert (message.event, dict(message.data), message.chat.id) == ("session", {"holder": holder}, CUSTOMER)
    assert message.delivery == stage.platform.of(SEND)[0]["msgid"]
    assert stage.lost("state") == 1


# ---- menus ---------------------------------------------------------------------------------


def clicks(call: dict[str, Any]) -> list[tuple[str, str]]:
    assert call["msgtype"] == "msgmenu"
    assert all(line["type"] == "click" for line in call["msgmenu"]["list"])
    return [(line["click"]["id"], line["click"]["content"]) for line in call["msgmenu"]["list"]]


@pytest.mark.parametrize(
    ("text", "language", "labels"),
    [
        ("九点开门。", "auto", ["👍 有帮助", "👎 没帮助"]),
        ("We open at nine.", "auto", ["👍 Helpful", "👎 Not helpful"]),
        ("We open at nine.", "zh", ["👍 有帮助", "👎 没帮助"]),
    ],
)
async def test_a_short_answer_and_its_thumbs_are_one_message(
    stage: Stage, text: str, language: str, labels: list[str]
) -> None:
    await stage.build(language=language).send(part(text, feedback=True, inbox_id=42))
    (call,) = stage.platform.of(SEND)
    assert call["msgmenu"]["head_content"] == text
    assert clicks(call) == [("vote:up:42", labels[0]), ("vote:down:42", labels[1])]


async def test_a_tap_on_the_menu_comes_back_as_feedback_on_this_answer(stage: Stage) -> None:
    kf = await stage.connect()
    await kf.send(part("九点开门。", feedback=True, inbox_id=42))
    name, label = clicks(stage.platform.of(SEND)[0])[1]
    stage.platform.say(said(text={"content": label, "menu_id": name}))
    stage.wake(kf)
    (message,) = await stage.inlet.got(1)
    assert (message.event, message.data["vote"], message.data["inbox_id"]) == ("feedback", "down", 42)


async def test_questions_to_tap_come_first_are_cut_to_size_and_ten_lines_are_all(stage: Stage) -> None:
    choices = ("怎么退货？", " ", "长" * 100, *(f"question {number}" for number in range(20)))
    await stage.build().send(part("您是想问：", feedback=True, inbox_id=7, choices=choices))
    lines = clicks(stage.platform.of(SEND)[0])
    assert [name for name, _ in lines] == [
        *(f"ask:{number}" for number in range(8)),
        "vote:up:7",
        "vote:down:7",
    ]
    assert [text for _, text in lines][:3] == ["怎么退货？", "长" * 42, "question 0"]
    tapped = read(said(text={"content": "怎么退货？", "menu_id": "ask:0"}), "care", KF)
    assert getattr(tapped, "text", None) == "怎么退货？"


async def test_an_answer_too_long_for_a_menu_is_followed_by_one(stage: Stage) -> None:
    await stage.build().send(part("长" * 500, feedback=True, inbox_id=42))
    text, menu = stage.platform.of(SEND)
    assert text["text"]["content"] == "长" * 500
    assert menu["msgmenu"]["head_content"] == "这个回答有帮助吗？"
    assert [name for name, _ in clicks(menu)] == ["vote:up:42", "vote:down:42"]
    assert text["msgid"] != menu["msgid"]


async def test_questions_below_a_long_answer_need_no_asking(stage: Stage) -> None:
    await stage.build(feedback=False).send(part("长" * 500, feedback=True, inbox_id=42, choices=("退货",)))
    menu = stage.platform.of(SEND)[1]["msgmenu"]
    assert "head_content" not in menu
    assert [line["click"]["id"] for line in menu["list"]] == ["ask:0"]


async def test_without_feedback_in_the_settings_there_are_no_thumbs(stage: Stage) -> None:
    await stage.build(feedback=False).send(part("九点开门。", feedback=True, inbox_id=42))
    assert stage.platform.of(SEND)[0]["msgtype"] == "text"


async def test_a_menu_of_its_own_is_left_out_where_the_quota_has_no_room(stage: Stage) -> None:
    kf = stage.build()
    for number in range(4):
        await kf.send(part(key=f"k{number}"))
    with capture_logs() as logs:
        assert await kf.send(part("长" * 500, key="last", feedback=True, inbox_id=42))
    assert [call["msgtype"] for call in stage.platform.of(SEND)] == ["text"] * 5
    assert any("left out" in line["event"] for line in logs)


async def test_a_menu_that_fails_is_tried_again_without_the_text_before_it(stage: Stage) -> None:
    kf = stage.build()
    busy = iter([False, True, False])

    def sometimes(call: Call) -> dict[str, Any]:
        if next(busy):
            raise Refusal(-1, "system busy")
        return stage.platform._kf_send_msg(call)

    stage.platform.answers[SEND] = sometimes
    outgoing = part("长" * 500, feedback=True, inbox_id=42)
    with pytest.raises(ConnectorError):
        await kf.send(outgoing)
    assert await kf.send(outgoing) == stage.platform.of(SEND)[0]["msgid"]
    assert [call["msgtype"] for call in stage.platform.of(SEND)] == ["text", "msgmenu", "msgmenu"]


# ---- welcomes and media --------------------------------------------------------------------


async def test_a_welcome_goes_by_its_code_with_questions_to_tap(stage: Stage) -> None:
    stage.platform.codes["CODE"] = False
    kf = stage.build()
    await kf.send(part("欢迎！", return_path="welcome:CODE", choices=("怎么退货？",)))
    (call,) = stage.platform.of("kf/send_msg_on_event")
    assert (call["code"], call["msgmenu"]["head_content"]) == ("CODE", "欢迎！")
    assert clicks(call) == [("ask:0", "怎么退货？")]
    assert stage.platform.of(SEND) == []


async def test_a_welcome_that_is_too_late_is_not_delivered_and_not_tried_again(stage: Stage) -> None:
    with pytest.raises(Undeliverable) as raised:
        await stage.build().send(part("欢迎！", return_path="welcome:OLD"))
    assert raised.value.code == 95017
    assert stage.platform.of(SEND) == []


async def test_a_welcome_that_broke_off_and_is_known_then_was_delivered(stage: Stage) -> None:
    stage.platform.codes["CODE"] = False
    kf, on_event = stage.build(), "kf/send_msg_on_event"
    losing_answers(stage, on_event)
    with pytest.raises(ConnectorError):
        await kf.send(part("欢迎！", return_path="welcome:CODE"))
    del stage.platform.answers[on_event]
    shown = await kf.send(part("欢迎！", return_path="welcome:CODE"))
    assert [call["msgid"] for call in stage.platform.of(on_event)] == [shown] * 2


async def test_a_medium_is_refused_for_reasons_that_nobody_knows_for_a_while_only(stage: Stage) -> None:
    stage.platform.refuse("media/upload", UNLISTED)
    with pytest.raises(ConnectorError) as raised:
        await stage.build().send(part("[a.png]", attachment=Attachment("image", "a.png", b"png")))
    assert raised.value.patience == 600


@pytest.mark.parametrize("kind", ["image", "voice", "video", "file"])
async def test_media_are_uploaded_and_sent(stage: Stage, kind: Any) -> None:
    kf = stage.build()
    reply = Reply("Here it is", attachments=(Attachment(kind, "guide.pdf", b"%PDF"),))
    for outgoing in parts(stage, reply):
        await kf.send(outgoing)
    assert list(stage.platform.media.values()) == [("guide.pdf", b"%PDF")]
    assert stage.platform.of(SEND)[1][kind] == {"media_id": "media-0"}


async def test_a_medium_that_is_refused_is_named_instead(stage: Stage) -> None:
    kf = stage.build()
    outgoing = part("[talk.mp3]", attachment=Attachment("voice", "talk.mp3", b"mp3"))
    stage.platform.refuse("media/upload", -1)
    with pytest.raises(ConnectorError):
        await kf.send(outgoing)
    stage.platform.refuse("media/upload", 301017)
    await kf.send(outgoing)
    assert stage.platform.of(SEND)[0]["text"]["content"] == "[talk.mp3]"
