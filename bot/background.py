"""Work that a plugin does beside its handlers, ended with the bot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Background:
    """A plugin's tasks by name; one that fails is logged with the plugin's name and ends alone.

    Work in a thread cannot be cancelled: it calls `check` between its pieces.
    """

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = threading.Event()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the bot stops; an earlier task of the same name is cancelled."""
        earlier = self._tasks.get(name)
        if earlier is not None:
            earlier.cancel()
        self._stopped.clear()
        task = asyncio.create_task(self._run(name, work), name=f"{self.plugin}: {name}")
        task.add_done_callback(lambda _: work.close())  # it may be cancelled before it began
        self._tasks[name] = task

    def check(self) -> None:
        """Raise CancelledError once the bot stops; callable from any thread."""
        if self._stopped.is_set():
            raise asyncio.CancelledError

    async def stop(self) -> None:
        """Cancel everything and wait for it; threads end at their next `check`."""
        self._stopped.set()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("background work failed", plugin=self.plugin, task=name)
