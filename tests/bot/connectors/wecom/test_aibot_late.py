"""Answers that WeCom does not fetch from an intelligent robot, and those that a restart comes between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from bot import Message, Plugin, Reply, Session
from bot.connectors.wecom import aibot as module
from bot.connectors.wecom.pace import Limit
from bot.connectors.wecom.streams import MAX_CONTENT, Answer, Stream, Streams, Taken
from bot.errors import ConnectorError, Undeliverable
from bot.reply import Outgoing, Target
from tests.bot.connectors.wecom.aibot_platform import METHOD, QUICK, Robot, Serve, echo, held, posted, serving
from tests.bot.connectors.wecom.qyapi import FakeQyApi


@pytest.fixture
async def serve(tmp_path: Path, api_base: str, qyapi: FakeQyApi) -> AsyncIterator[Serve]:
    async with serving(tmp_path, api_base, qyapi) as start:
        yield start


async def final_part(robot: Robot, delivery: str) -> Outgoing:
    """The last part of the answer to a message, once it is committed."""
    inbox_id = await robot.app.dispatch.find("wecom-aibot", "robot", delivery)
    assert inbox_id is not None
    return (await robot.app.dispatch.outcome(inbox_id, wait=5.0)).replies[-1]


# -- answers that WeCom does not fetch ------------------------------------------------------


async def test_an_answer_goes_to_the_response_url_once_wecom_asks_no_more(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    plugin, gate = held(Reply("late **answer**", feedback=True, markdown=True))
    robot = await serve(plugin, QUICK)
    first = await robot.wecom.ask()
    assert "feedback" in first, "thumbs are offered once"
    await asyncio.sleep(QUICK.gone)
    gate.set()
    assert await robot.outcome() == {"sent": 1}
    assert qyapi.of(METHOD) == [{"msgtype": "markdown", "markdown": {"content": "late **answer**"}}]
    late = await robot.wecom.refresh(first["id"])
    assert (late["finish"], late["content"]) == (True, ""), "the answer is not shown twice"


async def test_an_answer_that_could_not_be_written_goes_to_the_response_url(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    plugin, gate = held()
    robot = await serve(plugin, replace(QUICK, quick=5.0))
    asking = asyncio.create_task(robot.wecom.ask())
    while not robot.app.dispatch.lanes:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.sleep(0.3)
    gate.set()
    assert await robot.outcome() == {"sent": 1}
    assert posted(qyapi) == ["late answer"]


async def test_a_stream_is_ended_before_wecom_ends_it_and_the_answer_follows(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    plugin, more = Plugin("writer"), asyncio.Event()

    @plugin.message()
    async def write(message: Message) -> AsyncIterator[str]:
        yield "答案"
        await more.wait()
        yield "是 42。"

    robot = await serve(plugin, replace(QUICK, gone=60.0, forced=0.3))
    last = await robot.wecom.follow(await robot.wecom.ask())
    assert last["content"] == "答案\n\n（回答还没写完，写好后单独发给您。）"
    more.set()
    assert await robot.outcome() == {"sent": 1}
    assert posted(qyapi) == ["答案是 42。"]
    assert (await robot.wecom.refresh(last["id"]))["content"] == last["content"]


async def test_an_answer_that_is_ready_by_then_is_still_fetched(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin, gate = held()
    robot = await serve(plugin, replace(QUICK, gone=60.0, forced=0.3))
    first = await robot.wecom.ask()
    gate.set()
    await asyncio.sleep(0.3)
    last = await robot.wecom.refresh(first["id"])
    assert (last["finish"], last["content"]) == (True, "late answer")
    assert await robot.outcome() == {"sent": 1}
    assert not qyapi.calls


async def test_the_second_piece_of_a_long_answer_goes_to_the_response_url_and_the_rest_is_counted(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    plugin = Plugin("writer")

    @plugin.message()
    async def answer(message: Message) -> str:
        return "一二三四五六七八九。" * 1500

    robot = await serve(plugin)
    stream = await robot.wecom.ask()
    assert (await robot.outcome())["sent"] == 3
    for content in (stream["content"], *posted(qyapi)):
        assert 10_000 < len(content.encode()) <= MAX_CONTENT
        assert content.endswith("。")
    assert len(posted(qyapi)) == 1
    assert robot.lost("too_long") == 1


@pytest.mark.parametrize("code", [40058, 93000, 123456])
async def test_a_refused_answer_is_lost_in_the_open(serve: Serve, qyapi: FakeQyApi, code: int) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    await robot.wecom.ask()
    qyapi.refuse(METHOD, code)
    gate.set()
    with capture_logs() as logs:
        assert await robot.outcome() == {"failed": 1}
    assert robot.lost("expired") == 1
    assert [entry["reason"] for entry in logs if "reason" in entry] == ["expired"]


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_response_url_that_is_gone_does_not_block_its_chat(
    serve: Serve, qyapi: FakeQyApi, status: int
) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    await robot.wecom.ask()
    qyapi.reply(METHOD, web.Response(text="gone", status=status))
    gate.set()
    assert await robot.outcome() == {"failed": 1}
    assert robot.lost("expired") == 1


async def test_a_response_url_is_not_tried_for_an_hour(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    first = await robot.wecom.ask()
    await asyncio.sleep(QUICK.gone)
    problems = [web.Response(text="bad gateway", status=502), web.Response(status=429)]
    for problem in problems:
        qyapi.reply(METHOD, problem)
    qyapi.cut(METHOD)
    qyapi.refuse(METHOD, 45009)
    gate.set()
    part = await final_part(robot, first["id"])
    for _ in range(4):
        with pytest.raises(ConnectorError) as caught:
            await robot.connector.send(part)
        assert caught.value.patience == module.URL_PATIENCE == 90
    assert not qyapi.problems


async def test_an_outage_is_waited_for(serve: Serve, qyapi: FakeQyApi) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    await robot.wecom.ask()
    qyapi.refuse(METHOD, -1)
    gate.set()
    await qyapi.called(METHOD)
    await asyncio.sleep(0.1)
    assert robot.connector.status.state == "retrying"
    assert await robot.outcome() == {"retried": 1, "sent": 1}
    assert robot.connector.status.state == "ok"


async def test_a_response_url_outside_api_base_is_never_called(serve: Serve) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    elsewhere, calls = web.Application(), list[str]()

    async def note(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.json_response({"errcode": 0})

    elsewhere.router.add_post("/{path:.*}", note)
    async with TestServer(elsewhere, host="127.0.0.1") as server:
        await robot.wecom.ask(response_url=str(server.make_url("/cgi-bin/aibot/response")))
        gate.set()
        assert await robot.outcome() == {"failed": 1}
    assert calls == []
    assert robot.lost("expired") == 1


async def test_what_a_chat_cannot_be_shown_now_is_not_lost(
    serve: Serve, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMITS", (Limit(1, 1.5),))
    robot = await serve(echo()[0])
    with capture_logs() as logs:
        assert (await robot.wecom.ask("one"))["content"] == "echo one"
        assert await robot.wecom.ask("rate") == {}
        assert (await robot.wecom.ask("other", user="li"))["content"] == "echo other"
        await robot.settled()
    assert posted(qyapi) == ["echo rate"]
    assert "feedback" in qyapi.of(METHOD)[0]["markdown"]
    assert robot.held("chat") == 1
    assert "chat" in [entry.get("reason") for entry in logs]


async def test_the_documented_limits_are_kept() -> None:
    assert (Limit(30, 60.0), Limit(1000, 3600.0)) == module.LIMITS


async def test_a_robot_cannot_speak_first(serve: Serve) -> None:
    robot = await serve(echo()[0])
    with pytest.raises(Undeliverable, match="cannot speak first"):
        await robot.connector.send(Outgoing(Target("wecom-aibot", "robot", "zhang"), "hi", "k"))


# -- answers that WeCom has, and that wait to be marked as sent -----------------------------


async def test_what_wecom_has_taken_is_not_sent_again_once_its_stream_is_forgotten(
    serve: Serve, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Streams", lambda: Streams(capacity=1))
    robot = await serve(echo()[0], QUICK)
    stream = await robot.wecom.ask()
    part = await final_part(robot, stream["id"])
    await robot.wecom.ask(user="li")
    assert await robot.connector.send(part) == stream["id"]
    assert not qyapi.calls


async def test_the_rest_of_a_long_answer_is_sent_by_its_last_part_alone(
    serve: Serve, qyapi: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Streams", lambda: Streams(capacity=1))
    plugin = Plugin("writer")

    @plugin.message()
    async def answer(message: Message) -> str:
        return "一二三四五六七八九。" * (1500 if message.text == "long" else 1)

    robot = await serve(plugin)
    stream = await robot.wecom.ask("long")
    await robot.settled()
    inbox_id = await robot.app.dispatch.find("wecom-aibot", "robot", stream["id"])
    assert inbox_id is not None
    *earlier, _ = (await robot.app.dispatch.outcome(inbox_id)).replies
    await robot.wecom.ask(user="li")
    assert earlier
    for part in earlier:
        assert await robot.connector.send(part) == stream["id"]
    assert len(posted(qyapi)) == 1


def test_the_rest_of_a_long_answer_is_known_once_its_stream_is_forgotten() -> None:
    stream = Stream("m1", 7, 0.0)
    parts = [Outgoing(Target("wecom-aibot", "robot", "zhang"), "一二三四五六七八九。" * 1000, "k")]
    stream.finish(Answer.of(parts))
    taken = Taken()
    taken.note(stream)
    rest = taken.rest("m1", "k")
    assert rest is not None
    assert [len(piece.encode()) < MAX_CONTENT for piece in rest] == [True]
    assert (taken.rest("m1", "of another answer"), taken.rest("m2", "k")) == (None, None)


def test_what_was_taken_is_remembered_for_more_than_an_hour_and_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = Taken(capacity=2)
    now = time.monotonic()

    def take(name: str, at: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: at)
        stream = Stream(name, 7, 0.0)
        stream.finish(Answer.of([Outgoing(Target("wecom-aibot", "robot", "zhang"), "hi", name)]))
        taken.note(stream)

    def known() -> list[str]:
        return [name for name in "abcd" if taken.rest(name, name) is not None]

    take("a", now)
    take("b", now + 3700)
    assert known() == ["a", "b"]
    take("c", now + 3701)
    assert known() == ["b", "c"]
    take("d", now + 3700 + 3 * 3600)
    assert known() == ["d"]


async def test_the_end_of_a_stream_counts_from_the_messages_own_time(serve: Serve) -> None:
    plugin, _ = held()
    robot = await serve(plugin, replace(QUICK, gone=60.0, forced=30.0))
    on_its_way = await robot.wecom.ask(create_time=int(time.time()) - 40)
    assert (await robot.wecom.refresh(on_its_way["id"]))["finish"]
    for odd in (0, int(time.time()) + 3600, int(time.time())):
        stream = await robot.wecom.ask(create_time=odd, user="li")
        assert not (await robot.wecom.refresh(stream["id"]))["finish"]


async def test_a_clock_that_is_hours_ahead_does_not_end_streams_early(serve: Serve) -> None:
    plugin, _ = held()
    robot = await serve(plugin, replace(QUICK, gone=60.0, forced=module.MAX_WAITED + 5))
    stream = await robot.wecom.ask(create_time=int(time.time()) - 7200)
    assert not (await robot.wecom.refresh(stream["id"]))["finish"]


# -- restarts -------------------------------------------------------------------------------


async def test_after_a_restart_a_stream_goes_on_with_the_answer_to_its_message(
    serve: Serve, qyapi: FakeQyApi
) -> None:
    """WeCom asks again only after it could have been taken to be gone, and just before the answer."""
    plugin, gate = Plugin("talker"), asyncio.Event()

    @plugin.message()
    async def answer(message: Message, session: Session) -> str:
        await session.say("One moment.")
        await gate.wait()
        return "42"

    before = await serve(plugin, QUICK)
    first = await before.wecom.shows(await before.wecom.ask(), "One moment.")
    await before.app.stop()
    after = await serve(plugin, replace(QUICK, quick=5.0))
    await asyncio.sleep(QUICK.gone + 0.1)
    asking = asyncio.create_task(after.wecom.refresh(first["id"]))
    await asyncio.sleep(0.2)
    gate.set()
    stream = await asking
    assert (stream["finish"], stream["content"]) == (True, "One moment.\n\n42")
    assert await after.outcome() == {"sent": 1}
    assert not qyapi.calls


@pytest.mark.parametrize("polled", [True, False])
async def test_an_answer_that_was_not_fetched_before_a_restart_is_after(
    serve: Serve, qyapi: FakeQyApi, polled: bool
) -> None:
    plugin, gate = Plugin("talker"), asyncio.Event()

    @plugin.message()
    async def answer(message: Message, session: Session) -> str:
        await session.say("One moment.")
        await gate.wait()
        return "42"

    before = await serve(plugin, replace(QUICK, gone=60.0))
    first = await before.wecom.ask()
    gate.set()
    await before.app.stop()
    after = await serve(plugin, replace(QUICK, gone=60.0 if polled else 0.3))
    if polled:
        stream = await after.wecom.refresh(first["id"])
        assert (stream["finish"], stream["content"]) == (True, "One moment.\n\n42")
    assert await after.outcome() in ({"sent": 1}, {"sent": 1, "retried": 1})
    assert posted(qyapi) == ([] if polled else ["One moment.\n\n42"])


async def test_a_stopping_bot_finishes_its_streams_and_begins_none(serve: Serve) -> None:
    plugin, gate = held()
    robot = await serve(plugin, QUICK)
    first = await robot.wecom.ask()
    await robot.connector.stop()
    assert (await robot.wecom.post(robot.wecom.message()))[0] == 503
    gate.set()
    assert (await robot.wecom.follow(first))["content"] == "late answer"
