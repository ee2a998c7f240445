"""Notices when the event loop is blocked, and names the plugin that blocks it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from bot.metrics import Metrics

log = structlog.get_logger(__name__)
UNKNOWN = "unknown"


class LoopWatchdog:
    """A beat on the loop, and a thread that looks at the loop's stack when the beat does not come.

    `folders` maps a plugin's file or folder (as in `__file__`) to its name, `current` a running task to its
    plugin; both may change while the bot runs. A stall is more than `threshold` seconds; each one gives one
    warning, when the loop moves again or after `patience` seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        folders: Mapping[Path, str],
        current: Mapping[asyncio.Task[Any], str],
        threshold: float = 0.25,
        patience: float = 5.0,
    ) -> None:
        self._metrics = metrics
        self._folders = folders
        self._current = current
        self._threshold = threshold
        self._patience = max(patience, threshold)
        self._interval = threshold / 2
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._due = 0.0
        self._culprit: dict[str, str] | None = None
        self._told = False

    def start(self) -> None:
        """Begin to watch the running loop; call it on that loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopping.clear()
        self._rearm()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns once the thread has ended."""
        self._stopping.set()
        self._timer.cancel()
        self._thread.join()

    def _rearm(self) -> None:
        with self._lock:
            self._due = time.monotonic() + self._interval
            self._culprit, self._told = None, False
        self._timer = self._loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        lag = max(0.0, time.monotonic() - self._due)
        self._metrics.loop_lag_seconds.set(lag)
        with self._lock:
            # C code that holds the GIL keeps the thread from looking: then only the lag is known
            culprit, tell = self._culprit or {"plugin": UNKNOWN}, lag > self._threshold and not self._told
        if tell:
            self._tell(culprit, lag)
        self._rearm()

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval):
            with self._lock:
                lag = time.monotonic() - self._due
                # half the threshold, one interval: no stall worth telling ends before it was looked at
                if lag <= self._interval or self._told:
                    continue
                self._culprit = self._culprit or self._look()
                self._told = lag >= self._patience
                culprit, tell = self._culprit, self._told
            if tell:
                self._metrics.loop_lag_seconds.set(lag)
                self._tell(culprit, lag)

    def _tell(self, culprit: dict[str, str], lag: float) -> None:
        self._metrics.loop_stalls.labels(culprit["plugin"]).inc()
        log.warning("event loop blocked", lag=round(lag, 3), **culprit)

    def _look(self) -> dict[str, str]:
        """Plugin, file:line and function at which the loop's thread stands."""
        frame = sys._current_frames().get(self._loop_thread)
        innermost = frame
        while frame is not None:
            plugin = self._plugin_of(frame)
            if plugin:
                return _described(plugin, frame)
            frame = frame.f_back
        task = asyncio.current_task(self._loop)
        plugin = self._current.get(task, UNKNOWN) if task else UNKNOWN
        return _described(plugin, innermost) if innermost else {"plugin": plugin}

    def _plugin_of(self, frame: FrameType) -> str | None:
        file = Path(frame.f_code.co_filename)
        for place in (file, *file.parents):
            if place in self._folders:
                return self._folders[place]
        return None


def _described(plugin: str, frame: FrameType) -> dict[str, str]:
    code = frame.f_code
    return {"plugin": plugin, "where": f"{code.co_filename}:{frame.f_lineno}", "function": code.co_qualname}
