"""Background work: named, replaced, ended with the bot, and alone when it fails."""

from __future__ import annotations

import asyncio

import pytest

from bot import Background


async def test_work_ends_with_the_bot() -> None:
    background, started, ended = Background("shop"), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background.start("work", work())
    await started.wait()
    background.check()
    await background.stop()
    assert ended.is_set()
    with pytest.raises(asyncio.CancelledError):
        background.check()


async def test_a_task_replaces_its_namesake() -> None:
    background, begun, news = Background("shop"), asyncio.Event(), asyncio.Queue[str]()

    async def work(name: str) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            news.put_nowait(name)

    background.start("work", work("first"))
    await begun.wait()
    background.start("work", work("second"))
    assert await news.get() == "first"
    await background.stop()


async def test_a_failure_is_logged_and_stays_alone(capsys: pytest.CaptureFixture[str]) -> None:
    background, done = Background("shop"), asyncio.Event()

    async def bad() -> None:
        raise ValueError("broken")

    async def good() -> None:
        done.set()

    background.start("bad", bad())
    background.start("good", good())
    await done.wait()
    await background.stop()
    assert "background work failed" in capsys.readouterr().out
