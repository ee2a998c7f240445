"""Conversations change hands: to a member, to the waiting pool, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.connectors.base import HumanDesk
from bot.errors import ConnectorError, Undeliverable
from bot.reply import Target
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, Stage, part, said, staged
from tests.bot.connectors.wecom.qyapi import KF, Call, Refusal

TARGET = Target("wecom-kf", "care", CUSTOMER, delivery="m1")
TRANS = "kf/service_state/trans"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


def moves(stage: Stage) -> list[tuple[int, str | None]]:
    """(state, member) of every change of hands that was tried."""
    return [(call["service_state"], call.get("servicer_userid")) for call in stage.platform.of(TRANS)]


async def test_without_servicers_a_talk_goes_to_the_waiting_pool(stage: Stage) -> None:
    kf = stage.build()
    assert isinstance(kf, HumanDesk)
    await kf.hand_over(TARGET)
    assert stage.platform.of(TRANS) == [
        {"open_kfid": KF, "external_userid": CUSTOMER, "service_state": 2},
    ]


async def test_servicers_take_turns(stage: Stage) -> None:
    kf = stage.build(servicers=("li", "wang"))
    for customer in ("a", "b", "c"):
        await kf.hand_over(Target("wecom-kf", "care", customer))
    assert moves(stage) == [(3, "li"), (3, "wang"), (3, "li")]


async def test_whoever_is_not_on_duty_is_passed_over_and_the_pool_comes_last(stage: Stage) -> None:
    kf = stage.build(servicers=("li", "wang"))
    stage.platform.off_duty = {"li"}
    await kf.hand_over(TARGET)
    assert moves(stage) == [(3, "li"), (3, "wang")]
    stage.platform.off_duty = {"li", "wang"}
    await kf.hand_over(Target("wecom-kf", "care", "another"))
    assert moves(stage)[2:] == [(3, "wang"), (3, "li"), (2, None)]
    assert stage.platform.kf_states == {CUSTOMER: 3, "another": 2}


@pytest.mark.parametrize("state", [2, 3])
async def test_what_a_human_has_already_is_left_there(stage: Stage, state: int) -> None:
    stage.platform.kf_states[CUSTOMER] = state
    await stage.build(servicers=("li",)).hand_over(TARGET)
    assert moves(stage) == []


async def test_a_member_who_is_quicker_is_as_good(stage: Stage) -> None:
    def taken(call: Call) -> dict[str, Any]:
        stage.platform.kf_states[CUSTOMER] = 3
        raise Refusal(95016, "state transition not allowed")

    stage.platform.answers[TRANS] = taken
    await stage.build().hand_over(TARGET)


async def test_a_talk_that_has_ended_cannot_be_handed_over(stage: Stage) -> None:
    stage.platform.kf_states[CUSTOMER] = 4
    with pytest.raises(ConnectorError) as raised:
        await stage.build(servicers=("li",)).hand_over(TARGET)
    assert raised.value.code == 95016


async def test_a_platform_that_is_away_is_an_error_at_once(stage: Stage) -> None:
    stage.platform.refuse(TRANS, -1)
    with pytest.raises(ConnectorError):
        await stage.build(servicers=("li", "wang")).hand_over(TARGET)
    assert moves(stage) == [(3, "li")]


@pytest.mark.parametrize("answer", [{}, {"service_state": "3"}, {"service_state": 5}])
async def test_a_state_that_nobody_knows_is_an_error(stage: Stage, answer: dict[str, Any]) -> None:
    stage.platform.answers["kf/service_state/get"] = lambda call: answer
    with pytest.raises(ConnectorError):
        await stage.build().hand_over(TARGET)


async def test_the_notice_goes_by_the_code_and_then_the_bot_is_silent(stage: Stage) -> None:
    kf = await stage.connect()
    await kf.hand_over(TARGET)
    await kf.send(part("请稍候", key="notice", delivery="m1", choices=("no menus here",)))
    (notice,) = stage.platform.of("kf/send_msg_on_event")
    assert notice.pop("msgid")
    assert list(stage.platform.codes) == [notice.pop("code")]
    assert notice == {"msgtype": "text", "text": {"content": "请稍候"}}
    with pytest.raises(Undeliverable):
        await kf.send(part("chatter", key="late", delivery="m1"))
    assert stage.platform.of("kf/send_msg") == []
    assert len(stage.platform.of("kf/send_msg_on_event")) == 1
    assert stage.lost("human") == 1
    (reminder,) = await stage.inlet.got(1)
    assert (reminder.event, dict(reminder.data)) == ("session", {"holder": "waiting"})


async def test_an_older_answer_does_not_use_up_the_notice(stage: Stage) -> None:
    kf = stage.build()
    await kf.hand_over(TARGET)
    with pytest.raises(Undeliverable):
        await kf.send(part("old", key="old", delivery="m0"))
    await kf.send(part("请稍候", key="notice", delivery="m1"))
    assert [call["text"]["content"] for call in stage.platform.of("kf/send_msg_on_event")] == ["请稍候"]


async def test_a_notice_that_breaks_off_is_sent_again_under_its_code(stage: Stage) -> None:
    kf = stage.build()
    await kf.hand_over(TARGET)
    stage.platform.cut("kf/send_msg_on_event")
    with pytest.raises(ConnectorError) as raised:
        await kf.send(part("请稍候", key="notice", delivery="m1"))
    assert not isinstance(raised.value, Undeliverable)
    await kf.send(part("请稍候", key="notice", delivery="m1"))
    first, again = stage.platform.of("kf/send_msg_on_event")
    assert first == again


async def test_once_the_human_is_done_the_bot_writes_again_without_being_told(stage: Stage) -> None:
    kf = stage.build()
    await kf.hand_over(TARGET)
    stage.platform.kf_states[CUSTOMER] = 0
    await kf.send(part("here I am", delivery="m2"))
    assert stage.platform.of("kf/send_msg")[0]["text"] == {"content": "here I am"}


@pytest.mark.parametrize(("state", "people"), [(0, False), (1, False), (2, True), (3, True), (4, False)])
async def test_whose_a_talk_is_can_be_asked(stage: Stage, state: int, people: bool) -> None:
    stage.platform.kf_states[CUSTOMER] = state
    kf = stage.build()
    assert await kf.with_people(TARGET) is people
    stage.platform.refuse("kf/service_state/get", -1)
    with pytest.raises(ConnectorError):
        await kf.with_people(TARGET)


@pytest.mark.parametrize(("state", "left"), [(0, 0), (1, 1), (2, 1), (3, 4), (4, 4)])
async def test_taking_back_ends_what_a_member_has_and_frees_what_waits(
    stage: Stage, state: int, left: int
) -> None:
    stage.platform.kf_states[CUSTOMER] = state
    await stage.build().take_back(Target("wecom-kf", "care", CUSTOMER))
    assert stage.platform.kf_states[CUSTOMER] == left


@pytest.mark.parametrize(("code", "never"), [(95004, True), (84061, True), (-1, False), (60020, False)])
@pytest.mark.parametrize("method", ["kf/service_state/get", TRANS])
async def test_what_the_platform_never_gives_back_is_told_from_what_it_keeps_for_now(
    stage: Stage, method: str, code: int, never: bool
) -> None:
    stage.platform.kf_states[CUSTOMER] = 3
    stage.platform.refuse(method, code)
    with pytest.raises(ConnectorError) as raised:
        await stage.build().take_back(TARGET)
    assert (isinstance(raised.value, Undeliverable), raised.value.code) == (never, code)


async def test_a_pool_that_gives_nothing_back_is_left_by_an_end(stage: Stage) -> None:
    def only_onwards(call: Call) -> dict[str, Any]:
        if call.payload["service_state"] == 1:
            raise Refusal(95016, "state transition not allowed")
        return {}

    stage.platform.kf_states[CUSTOMER] = 2
    stage.platform.answers[TRANS] = only_onwards
    await stage.build().take_back(TARGET)
    assert moves(stage) == [(1, None), (4, None)]


async def test_the_last_word_of_a_talk_goes_by_its_code_and_the_next_talk_by_itself(stage: Stage) -> None:
    kf = stage.build()
    stage.platform.kf_states[CUSTOMER] = 3
    await kf.take_back(Target("wecom-kf", "care", CUSTOMER))
    await kf.send(part("人工服务已结束", key="end"))
    assert len(stage.platform.of("kf/send_msg_on_event")) == 1
    stage.platform.kf_states[CUSTOMER] = 0
    await kf.send(part("answer", key="next", delivery="m7"))
    assert [call["text"]["content"] for call in stage.platform.of("kf/send_msg")] == ["answer"]


async def test_a_code_that_is_too_old_does_not_keep_an_answer_back(stage: Stage) -> None:
    kf = stage.build()
    stage.platform.kf_states[CUSTOMER] = 2
    await kf.take_back(Target("wecom-kf", "care", CUSTOMER))
    stage.platform.codes.clear()
    stage.platform.say(said())
    await kf.send(part("news"))
    assert len(stage.platform.of("kf/send_msg")) == 1
