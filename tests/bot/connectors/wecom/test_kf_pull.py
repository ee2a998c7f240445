"""An account's messages are pulled once each: in pages, over crashes, refusals and lost callbacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.connectors.base import Status
from bot.connectors.wecom import kf_pull
from bot.connectors.wecom.kf_desk import Desk
from bot.connectors.wecom.kf_messages import KIND
from bot.connectors.wecom.kf_pull import SINCE, Puller
from bot.connectors.wecom.kf_states import States
from bot.connectors.wecom.kf_talks import Talks
from bot.errors import Overloaded, StoreError
from bot.message import Message
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, FakeInlet, Stage, event, said, staged
from tests.bot.connectors.wecom.qyapi import KF, WAIT, Call


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


class Pull:
    """A puller at work whose waits take no time; `waits` are what they were."""

    def __init__(self, stage: Stage, inlet: FakeInlet) -> None:
        self.waits: list[float] = []
        self.status = Status()
        self.talks = Talks()
        self._stage = stage
        self._api = stage.api()
        self.states = States("care", Desk(self._api, KF, (), self.talks))
        self.states.start(inlet)
        self.puller = Puller(
            stage.settings(),
            self._api,
            stage.cursors,
            self.states,
            self.talks,
            self.status,
            stage.metrics,
            sleep=self._sleep,
        )
        self._task = asyncio.create_task(self.puller.run(inlet))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def wake(self) -> None:
        self._stage.platform.event_tokens.add("fresh")
        self.puller.wake("fresh")

    async def until(self, look: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT):
            while not look():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

    async def caught_up(self) -> None:
        """Wait until the persisted cursor stands at the end of what there is."""
        end = str(len(self._stage.platform.kf_messages))
        async with asyncio.timeout(WAIT):
            while await self._stage.cursors.get(KIND, KF) != end:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.states.stop()
        await self.states.close()
        await self._api.close()


@pytest.fixture
async def begin(stage: Stage) -> AsyncIterator[Callable[..., Pull]]:
    """Starts pulling, for the stage's core or another."""
    begun: list[Pull] = []

    def start(inlet: FakeInlet | None = None) -> Pull:
        begun.append(Pull(stage, inlet or stage.inlet))
        return begun[-1]

    yield start
    for pull in begun:
        await pull.stop()


Begin = Callable[..., Pull]


async def test_all_pages_are_pulled_even_short_and_empty_ones(stage: Stage, begin: Begin) -> None:
    sizes = iter([2, 0, 1, 0, 2])
    stage.platform.say(*(said(f"q{number}") for number in range(5)))
    ends = [0, 2, 2.5, 3, 3.5, 5]

    def page(call: Call) -> dict[str, Any]:
        start = float(call.payload.get("cursor") or 0)
        place = ends.index(start)
        following = ends[place + 1]
        items = stage.platform.kf_messages[int(start) : int(following)] if next(sizes) else []
        return {"next_cursor": str(following), "has_more": int(following < 5), "msg_list": items}

    stage.platform.answers["kf/sync_msg"] = page
    pull = begin()
    await stage.inlet.got(5)
    assert stage.inlet.texts == ["q0", "q1", "q2", "q3", "q4"]
    await pull.until(lambda: pull.status.state == "ok")
    calls = stage.platform.of("kf/sync_msg")
    assert [call.get("cursor") for call in calls] == [None, "2", "2.5", "3", "3.5"]
    assert all(call["open_kfid"] == KF and call["limit"] == 1000 for call in calls)


async def test_the_cursor_moves_once_a_page_is_committed_and_not_before(stage: Stage, begin: Begin) -> None:
    seen: list[str | None] = []

    class Slow(FakeInlet):
        async def receive_many(self, messages: Any) -> Any:
            seen.append(await stage.cursors.get(KIND, KF))
            return await super().receive_many(messages)

    stage.platform.kf_page = 1
    stage.platform.say(said("a"), said("b"))
    pull = begin(Slow())
    await pull.caught_up()
    assert seen == [None, "1"]


async def test_a_restart_goes_on_from_the_cursor(stage: Stage, begin: Begin) -> None:
    stage.platform.say(said("before"))
    pull = begin()
    await pull.caught_up()
    await pull.stop()
    stage.platform.say(said("meanwhile", ago=60))
    again = FakeInlet()
    begin(again)
    await again.got(1)
    assert again.texts == ["meanwhile"]
    assert stage.platform.of("kf/sync_msg")[-1]["cursor"] == "1"


async def test_a_page_that_was_committed_without_its_cursor_is_known_again(
    stage: Stage, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*place: str) -> None:
        await asyncio.Event().wait()

    stage.platform.say(said("once"))
    await stage.cursors.put(KIND, KF, "0")
    await stage.cursors.put(KIND, KF, "0", SINCE)
    with monkeypatch.context() as patch:
        patch.setattr(stage.cursors, "put", crash)
        pull = begin()
        await stage.inlet.got(1)
        await pull.stop()
    await begin().caught_up()
    assert len(stage.platform.of("kf/sync_msg")) == 2
    assert stage.inlet.texts == ["once"]


async def test_the_very_first_start_leaves_history_alone_and_says_how_much(
    stage: Stage, begin: Begin
) -> None:
    stage.platform.kf_page = 2
    stage.platform.say(
        said("last week", ago=3 * 24 * 3600), said("an hour ago", ago=3600), said("now", ago=5)
    )
    with capture_logs() as logs:
        pull = begin()
        await pull.caught_up()
        await pull.stop()
    assert stage.inlet.texts == ["now"]
    assert [line["number"] for line in logs if "too old" in line["event"]] == [2]
    assert stage.lost("old") == 2


async def test_a_first_start_that_was_cut_short_still_leaves_history_alone(
    stage: Stage, begin: Begin
) -> None:
    stage.platform.kf_page = 1
    stage.platform.say(said("an hour ago", ago=3600), said("too", ago=3600), said("now"))
    gate = asyncio.Event()

    def page(call: Call) -> dict[str, Any]:
        if call.payload.get("cursor"):
            stage.platform.gates["kf/sync_msg"] = gate
        return stage.platform._kf_sync_msg(call)

    stage.platform.answers["kf/sync_msg"] = page
    pull = begin()
    await stage.platform.called("kf/sync_msg", 3)
    await pull.stop()
    gate.set()
    await begin().caught_up()
    assert stage.inlet.texts == ["now"]


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0, 40 * 3600.0])
async def test_a_clock_that_was_wrong_at_the_very_first_start_costs_nothing_later(
    stage: Stage, begin: Begin, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(kf_pull.time, "time", lambda: real() + ahead)
        pull = begin()
        await pull.until(lambda: pull.status.state == "ok")
        await pull.until(lambda: not pull.puller._since)
    stage.platform.say(said("right afterwards"))
    pull.wake()
    await stage.inlet.got(1)
    await pull.stop()
    stage.platform.say(said("after a restart", ago=60))
    begin()
    await stage.inlet.got(2)


async def test_a_first_pull_under_a_clock_that_is_put_right_meanwhile_answers_what_comes(
    stage: Stage, begin: Begin
) -> None:
    await stage.cursors.put(KIND, KF, str(time.time() + 7200), SINCE)
    stage.platform.say(said("before", ago=60), said("now", ago=-5))
    await begin().caught_up()
    assert stage.inlet.texts == ["now"]


async def test_later_starts_skip_only_what_cannot_be_answered(stage: Stage, begin: Begin) -> None:
    await stage.cursors.put(KIND, KF, "0", SINCE)
    stage.platform.say(said("too late", ago=49 * 3600), said("still in time", ago=47 * 3600))
    await begin().caught_up()
    assert stage.inlet.texts == ["still in time"]
    assert stage.lost("old") == 1


async def test_only_customers_are_passed_on_and_each_message_once(stage: Stage, begin: Begin) -> None:
    twice = said("twice")
    stage.platform.say(said("staff", origin=5), twice, twice, event("enter_session"), said("other", "wm2"))
    pull = begin()
    await pull.caught_up()
    assert stage.inlet.texts == ["twice", "other"]


async def test_a_wake_pulls_with_its_token_as_long_as_that_is_valid(
    stage: Stage, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = begin()
    await stage.platform.called("kf/sync_msg", 1)
    stage.platform.say(said("hello"))
    pull.wake()
    await stage.inlet.got(1)
    assert [call.get("token") for call in stage.platform.of("kf/sync_msg")] == [None, "fresh"]
    monkeypatch.setattr(kf_pull, "TOKEN_VALID", -1.0)
    pull.wake()
    calls = await stage.platform.called("kf/sync_msg", 3)
    assert "token" not in calls[-1]


async def test_a_wake_during_a_pull_pulls_again(stage: Stage, begin: Begin) -> None:
    gate = stage.platform.gates["kf/sync_msg"] = asyncio.Event()
    pull = begin()
    await stage.platform.called("kf/sync_msg", 1)
    pull.wake()
    gate.set()
    await stage.platform.called("kf/sync_msg", 2)


async def test_a_lost_callback_is_made_up_for(
    stage: Stage, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kf_pull, "PULL_EVERY", 0.02)
    begin()
    await stage.platform.called("kf/sync_msg", 1)
    stage.platform.say(said("nobody called"))
    await stage.inlet.got(1)


async def test_a_bad_token_is_left_out_and_not_tried_again(stage: Stage, begin: Begin) -> None:
    stage.platform.kf_page = 1
    pull = begin()
    await stage.platform.called("kf/sync_msg", 1)
    stage.platform.say(said("hello"), said("again"))
    pull.puller.wake("a token of yesterday")
    await stage.inlet.got(2)
    tokens = [call.get("token") for call in stage.platform.of("kf/sync_msg")]
    assert tokens == [None, "a token of yesterday", None, None]
    assert pull.waits == []


async def test_too_many_calls_are_followed_by_a_minute_without_any(stage: Stage, begin: Begin) -> None:
    stage.platform.refuse("kf/sync_msg", 45009)
    stage.platform.say(said("hello"))
    pull = begin()
    await stage.inlet.got(1)
    assert pull.waits == [60.0]


async def test_failures_are_told_and_tried_again_in_growing_pauses(stage: Stage, begin: Begin) -> None:
    stage.platform.refuse("kf/sync_msg", -1, times=7)
    stage.platform.cut("kf/sync_msg")
    stage.platform.say(said("hello"))
    states: list[tuple[str, bool]] = []
    pull = begin()
    note, take = pull._sleep, pull.puller
    take._sleep = _noting(states, pull, note)
    await stage.inlet.got(1)
    await pull.until(lambda: pull.status.state == "ok")
    assert pull.waits == [1.0, 2.0, 4.0, 5.0, 3.0, 5.0, 11.0, 5.0, 27.0, 5.0, 55.0, 5.0, 55.0]
    assert states == [("retrying", True)] * 13
    assert pull.status.detail == ""
    stage.platform.refuse("kf/sync_msg", -1)
    pull.wake()
    await stage.platform.called("kf/sync_msg", 11)
    assert pull.waits[13:] == [1.0]


async def test_a_call_ends_a_long_wait(stage: Stage, begin: Begin) -> None:
    stage.platform.refuse("kf/sync_msg", -1, times=4)
    stage.platform.say(said("hello"))
    pull = begin()

    async def sleep(seconds: float) -> None:
        pull.waits.append(seconds)
        await asyncio.sleep(0 if seconds != 3.0 else 60)

    pull.puller._sleep = sleep
    await pull.until(lambda: pull.waits == [1.0, 2.0, 4.0, 5.0, 3.0])
    assert stage.inlet.messages == []
    pull.wake()
    await stage.inlet.got(1)


def _noting(states: list[tuple[str, bool]], pull: Pull, sleep: Callable[[float], Any]) -> Callable[..., Any]:
    async def noting(seconds: float) -> None:
        states.append((pull.status.state, bool(pull.status.detail)))
        await sleep(seconds)

    return noting


async def test_a_core_that_takes_nothing_is_asked_again_with_the_same_page(
    stage: Stage, begin: Begin
) -> None:
    stage.inlet.refusals += [Overloaded(30.0), StoreError("locked", transient=True), StoreError("full")]
    stage.platform.say(said("hello"))
    pull = begin()
    await pull.caught_up()
    assert stage.inlet.texts == ["hello"]
    assert len(stage.platform.of("kf/sync_msg")) == 1
    assert pull.waits == [1.0, 1.0, 2.0]


async def test_a_cursor_that_does_not_move_is_no_endless_loop(stage: Stage, begin: Begin) -> None:
    def page(call: Call) -> dict[str, Any]:
        return {"next_cursor": "1", "has_more": 1, "msg_list": []}

    stage.platform.answers["kf/sync_msg"] = page
    with capture_logs() as logs:
        pull = begin()
        await pull.until(lambda: any("does not come" in line["event"] for line in logs))
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/sync_msg")) == 2


async def test_cursors_that_lead_round_in_a_circle_are_left_for_a_while(
    stage: Stage, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(call: Call) -> dict[str, Any]:
        following = "A" if call.payload.get("cursor") != "A" else "B"
        return {"next_cursor": following, "has_more": 1, "msg_list": [said("again", msgid="m1")]}

    stage.platform.answers["kf/sync_msg"] = page
    pull = begin()
    await stage.platform.called("kf/sync_msg", 3)
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/sync_msg")) == 3
    assert pull.status.state == "ok"
    monkeypatch.setattr(kf_pull, "MAX_WAIT", 0.01)
    pull.wake()
    await stage.platform.called("kf/sync_msg", 7)  # the rest is not forgotten


async def test_empty_pages_without_an_end_are_left_for_a_while(stage: Stage, begin: Begin) -> None:
    def page(call: Call) -> dict[str, Any]:
        return {"next_cursor": f"{call.payload.get('cursor', '')}x", "has_more": 1, "msg_list": []}

    stage.platform.answers["kf/sync_msg"] = page
    begin()
    await stage.platform.called("kf/sync_msg", 10)
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/sync_msg")) == 10


async def test_answers_that_make_no_sense_do_not_end_it(stage: Stage, begin: Begin) -> None:
    pages: list[dict[str, Any]] = [
        {"next_cursor": 7, "has_more": "yes", "msg_list": {"a": 1}},
        {"msg_list": [None, [], 3, {"msgid": 4}, said("hello")]},
    ]
    stage.platform.answers["kf/sync_msg"] = lambda call: pages.pop(0)
    pull = begin()
    await pull.until(lambda: pull.status.state == "ok")
    pull.wake()
    await stage.inlet.got(1)
    assert pull.waits == []


def told(stage: Stage) -> list[str | tuple[str, str]]:
    """Texts, and (customer, holder) where the core was told who has a conversation."""
    return [
        (item.user.id, item.data["holder"]) if item.event == "session" else item.text
        for item in stage.inlet.messages
    ]


def changed(kind: int | None, customer: str = CUSTOMER, **more: Any) -> dict[str, Any]:
    return event("session_status_change", customer, change_type=kind, **more)


async def test_a_change_of_hands_becomes_the_event_session_in_its_place(stage: Stage, begin: Begin) -> None:
    stage.platform.kf_states.update({CUSTOMER: 3})
    taken = changed(1)
    stage.platform.say(said("one"), taken, said("two"), changed(3, "wm2"))
    pull = begin()
    await stage.platform.called("kf/service_state/get", 2)
    messages = await stage.inlet.got(4)
    assert told(stage) == ["one", (CUSTOMER, "people"), "two", ("wm2", "nobody")]
    assert messages[1].delivery == taken["msgid"]
    assert pull.talks.of(CUSTOMER).human
    assert not pull.talks.of("wm2").human


async def test_words_to_a_member_stay_between_the_change_of_hands_and_the_end(
    stage: Stage, begin: Begin
) -> None:
    stage.platform.say(changed(1), said("for the member"), changed(2), changed(3), said("for the bot"))
    pull = begin()
    await pull.caught_up()
    await stage.platform.called("kf/service_state/get", 1)
    assert told(stage) == [
        (CUSTOMER, "people"),
        "for the member",
        (CUSTOMER, "people"),
        (CUSTOMER, "nobody"),
        "for the bot",
    ]
    await asyncio.sleep(0.05)
    assert len(stage.platform.of("kf/service_state/get")) == 1
    assert len(stage.inlet.messages) == 5


async def test_what_the_platform_says_of_the_last_change_is_believed_once_all_pages_are_here(
    stage: Stage, begin: Begin
) -> None:
    stage.platform.kf_page = 1
    stage.platform.kf_states[CUSTOMER] = 3
    stage.platform.say(changed(1), changed(3), said("one"), changed(None, "wm2"), said("two"))
    begin()
    await stage.inlet.got(6)
    assert told(stage)[:4] == [(CUSTOMER, "people"), (CUSTOMER, "nobody"), "one", "two"]
    assert set(told(stage)[4:]) == {(CUSTOMER, "people"), ("wm2", "bot")}


async def test_states_that_cannot_be_asked_hold_up_nobodys_messages(stage: Stage, begin: Begin) -> None:
    gate = stage.platform.gates["kf/service_state/get"] = asyncio.Event()
    stage.platform.say(*(changed(None, f"wm{number}") for number in range(20)), said("one"))
    pull = begin()
    await stage.inlet.got(1)
    stage.platform.say(said("two"))
    pull.wake()
    await stage.inlet.got(2)
    assert stage.inlet.texts == ["one", "two"]
    assert (pull.status.state, pull.waits) == ("ok", [])
    gate.set()
    await stage.inlet.got(22)


async def test_a_change_of_hands_counts_however_long_the_bot_was_away(stage: Stage, begin: Begin) -> None:
    await stage.cursors.put(KIND, KF, "0", SINCE)
    stage.platform.say(changed(3, ago=60 * 3600), said("old", ago=60 * 3600))
    await begin().caught_up()
    assert told(stage) == [(CUSTOMER, "nobody")]


async def test_a_message_of_ours_that_did_not_arrive_is_counted_and_logged(
    stage: Stage, begin: Begin
) -> None:
    stage.platform.say(event("msg_send_fail", fail_msgid="m1", fail_type=10))
    with capture_logs() as logs:
        pull = begin()
        await pull.caught_up()
        await pull.until(lambda: stage.lost("send_fail"))
    told = next(line for line in logs if "not delivered" in line["event"])
    assert (told["log_level"], told["msgid"], told["reason"]) == ("warning", "m1", 10)
    assert stage.lost("send_fail") == 1
    assert stage.inlet.messages == []


async def test_what_a_customer_says_or_taps_opens_the_quota_again(stage: Stage, begin: Begin) -> None:
    pull = begin()
    await stage.platform.called("kf/sync_msg", 1)
    for item in (said("more"), said(text={"content": "👍", "menu_id": "vote:up:1"})):
        talk = pull.talks.of(CUSTOMER)
        assert [talk.may_send(f"m{number}") for number in range(6)] == [True] * 5 + [False]
        stage.platform.say(item)
        pull.wake()
        await pull.caught_up()
        assert talk.may_send("m5")
        talk.sent.clear()


async def test_a_page_of_a_thousand_messages_is_read_within_a_moment(stage: Stage, begin: Begin) -> None:
    stage.platform.say(*(said(f"q{number}", f"wm{number % 50}") for number in range(1000)))
    began = time.perf_counter()
    begin()
    messages: list[Message] = await stage.inlet.got(1000)
    assert time.perf_counter() - began < 3
    assert len(messages) == 1000
