"""Streams: the whole text so far, what ends them, and how long they are remembered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.streams import MAX_CONTENT, MAX_IMAGES, Answer, Stream, Streams, encoded
from bot.reply import Attachment, Outgoing, Target

TARGET = Target("wecom-aibot", "robot", "zhang", delivery="m1")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(9)


def part(text: str, key: str = "k", image: bytes | None = None) -> Outgoing:
    attachment = None if image is None else Attachment("image", "a.png", image)
    return Outgoing(TARGET, text, key, inbox_id=7, attachment=attachment)


def opened() -> Stream:
    return Stream("m1", 7, time.monotonic())


def test_what_was_said_stays_above_what_is_being_written_and_is_shown_once() -> None:
    stream = opened()
    stream.say("s1", "Looking it up.")
    stream.grow("The")
    stream.say("s1", "Looking it up.")
    stream.grow("The answer")
    assert stream.body() == {
        "msgtype": "stream",
        "stream": {"id": "m1", "finish": False, "content": "Looking it up.\n\nThe answer"},
    }


def test_an_answer_is_the_text_of_all_its_parts() -> None:
    stream = opened()
    stream.finish(Answer.of([part("one", "a"), part("two", "b")]))
    assert stream.body()["stream"] == {"id": "m1", "finish": True, "content": "one\n\ntwo"}


@given(st.text(), st.integers(0, MAX_CONTENT))
def test_a_growing_text_never_shrinks_and_stays_valid_within_the_limit(tail: str, length: int) -> None:
    stream = opened()
    text, before = "", ""
    for piece in ("问" * (length // 3), tail, "。\n\n答" * 3000):
        text += piece
        stream.grow(text)
        assert len(stream.content.encode()) <= MAX_CONTENT
        assert len(stream.content) >= len(before)
        before = stream.content


def test_an_answer_that_is_too_long_is_cut_between_sentences() -> None:
    answer = Answer.of([part("一二三四五六七八九。" * 1000)])
    assert len(answer.pieces) == 2
    assert all(len(piece.encode()) <= MAX_CONTENT and piece.endswith("。") for piece in answer.pieces)


def test_images_go_along_with_the_finished_text() -> None:
    stream = opened()
    stream.finish(Answer.of([part("see", "a"), part("[a.png]", "b", PNG)]))
    digest = hashlib.md5(PNG, usedforsecurity=False).hexdigest()
    assert json.loads(encoded(stream.body()))["stream"] == {
        "id": "m1",
        "finish": True,
        "content": "see",
        "msg_item": [
            {"msgtype": "image", "image": {"base64": base64.b64encode(PNG).decode(), "md5": digest}}
        ],
    }


def test_an_image_that_wecom_does_not_show_is_named_instead() -> None:
    images = [part(f"[{number}]", str(number), PNG) for number in range(MAX_IMAGES + 1)]
    answer = Answer.of([*images, part("[a.gif]", "gif", b"GIF89a")])
    assert len(answer.images) == MAX_IMAGES
    assert answer.pieces == (f"[{MAX_IMAGES}]\n\n[a.gif]",)


async def test_what_wecom_has_taken_is_the_end() -> None:
    stream = opened()
    stream.finish(Answer.of([part("done")]))
    waiting = asyncio.create_task(stream.taken(5))
    await asyncio.sleep(0)
    stream.written("done", whole=True)
    assert await waiting
    stream.close()
    assert stream.content == "done"


async def test_wecom_is_gone_once_it_has_not_asked_for_a_while() -> None:
    stream = opened()
    stream.finish(Answer.of([part("done")]))
    began = time.monotonic()
    waiting = asyncio.create_task(stream.taken(0.2))
    await asyncio.sleep(0.1)
    stream.asked()
    assert not await waiting
    assert 0.25 < time.monotonic() - began < 2


async def test_a_closed_stream_ends_as_it_was_last_shown_whatever_comes_later() -> None:
    stream = opened()
    stream.grow("The ans")
    stream.written(stream.content, whole=False)
    stream.grow("The answer is")
    stream.close()
    stream.finish(Answer.of([part("The answer is 42", image=None)]))
    assert stream.body()["stream"] == {"id": "m1", "finish": True, "content": "The ans"}
    assert not await stream.taken(5)


def test_the_oldest_streams_are_forgotten_first() -> None:
    streams = Streams(capacity=2)
    for name in ("a", "b", "c"):
        streams.open(name, 1, 0.0)
    assert [streams.get(name) is not None for name in ("a", "b", "c")] == [False, True, True]


def test_old_streams_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(keep=600)
    streams.open("a", 1, 0.0)
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    streams.open("b", 2, 0.0)
    assert len(streams) == 1
    assert streams.get("a") is None
