"""The loop watchdog: a plugin that really blocks the loop is named, once, with file and line."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from bot.metrics import Metrics
from bot.watchdog import LoopWatchdog

BLOCKING = """
def block(wait):
    return wait()  # line 3
"""


class Warnings:
    """What the watchdog logs, and an event for its first word."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.first = threading.Event()

    def __call__(self, logger: Any, method: str, event_dict: Any) -> Any:
        self.lines.append(dict(event_dict))
        self.first.set()
        raise structlog.DropEvent


@pytest.fixture
def warnings() -> Iterator[Warnings]:
    warnings = Warnings()
    structlog.configure(processors=[warnings])
    yield warnings
    structlog.reset_defaults()


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    file = tmp_path / "slow" / "plugin.py"
    file.parent.mkdir()
    file.write_text(BLOCKING)
    spec = importlib.util.spec_from_file_location("slow_plugin", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_blocked_loop_names_the_plugin_while_it_is_blocked(warnings: Warnings, plugin: Any) -> None:
    metrics, file = Metrics(), Path(plugin.__file__)
    watchdog = LoopWatchdog(metrics, folders={file.parent: "slow"}, current={}, threshold=0.05, patience=0.05)
    watchdog.start()
    assert plugin.block(lambda: warnings.first.wait(30))
    await asyncio.sleep(0.1)  # the loop moves again: nothing more is said
    watchdog.stop()
    (line,) = [line for line in warnings.lines if line["plugin"] == "slow"]
    assert line["where"] == f"{file}:3"
    assert line["lag"] >= 0.05
    assert metrics.registry.get_sample_value("glmbot_loop_stalls_total", {"plugin": "slow"}) == 1


async def test_a_stall_that_ended_is_told_with_its_whole_lag(warnings: Warnings, plugin: Any) -> None:
    file = Path(plugin.__file__)
    watchdog = LoopWatchdog(Metrics(), folders={file: "slow"}, current={}, threshold=0.05, patience=600)
    watchdog.start()
    plugin.block(lambda: time.sleep(0.3))
    assert not warnings.lines
    assert await asyncio.to_thread(warnings.first.wait, 30)
    watchdog.stop()
    assert (warnings.lines[0]["plugin"], warnings.lines[0]["where"]) == ("slow", f"{file}:3")
    assert warnings.lines[0]["lag"] >= 0.2


async def test_a_blocking_library_call_is_put_down_to_the_running_handler(warnings: Warnings) -> None:
    current: dict[asyncio.Task[Any], str] = {}
    watchdog = LoopWatchdog(Metrics(), folders={}, current=current, threshold=0.05, patience=0.05)
    watchdog.start()

    async def handler() -> None:
        warnings.first.wait(30)

    task = asyncio.create_task(handler())
    current[task] = "shop"
    await task
    watchdog.stop()
    assert warnings.lines[0]["plugin"] == "shop"
    assert "where" in warnings.lines[0]


async def test_the_lag_is_measured_and_the_thread_ends(warnings: Warnings) -> None:
    metrics = Metrics()
    watchdog = LoopWatchdog(metrics, folders={}, current={}, threshold=60)
    watchdog.start()
    assert any(thread.name == "loop-watchdog" for thread in threading.enumerate())
    watchdog.stop()
    assert not any(thread.name == "loop-watchdog" for thread in threading.enumerate())
    assert warnings.lines == []
