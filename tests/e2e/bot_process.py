"""A whole bot as a process of its own: started from a config, watched from outside, killed or stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

RUN = (sys.executable, "-c", "from bot.cli import main; main()", "run", "-c")
PLUGINS = Path(__file__).with_name("plugins")
ROOT = Path(__file__).parents[2]
FAQ_SAMPLES = [ROOT / "plugins" / "faq" / "sample" / f"faq.{language}.yaml" for language in ("zh", "en")]
BUILT_IN = ("faq", "knowledge", "help", "chat", "handoff")
START_WITHIN = 30.0
STOP_WITHIN = 60.0


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def small_config(*connectors: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """The sample plugins beside this file and nothing else, so that the bot starts fast."""
    return {
        "store": {"url": "sqlite+aiosqlite:///bot.db"},
        "plugins": {name: {"enabled": False} for name in BUILT_IN},
        "plugin_folders": [str(PLUGINS)],
        "connectors": list(connectors),
        "log": {"format": "json"},
        **sections,
    }


def sample_config(folder: Path, *connectors: Mapping[str, Any]) -> dict[str, Any]:
    """What ships: the sample FAQ and documents with all built-in plugins; vectors are cached in `folder`."""
    return {
        "store": {"url": "sqlite+aiosqlite:///bot.db"},
        "plugins": {
            "faq": {"files": [str(file) for file in FAQ_SAMPLES]},
            "knowledge": {"folders": [str(ROOT / "plugins" / "knowledge" / "sample")]},
        },
        "retrieval": {"cache": str(folder / "vectors")},
        "connectors": list(connectors),
        "log": {"format": "json"},
    }


class BotProcess:
    """`glmbot run` in `folder`, where its config, database and log are; it keeps its port over restarts."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log = folder / "bot.log"
        self._config = folder / "config.yaml"
        settings = {**config, "server": {"host": "127.0.0.1", "port": self.port}}
        self._config.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> BotProcess:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process is not None:
            await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> float:
        """Start and wait until it is ready; returns the seconds that took."""
        began = time.perf_counter()
        await self.spawn()
        try:
            await self.ready()
        except BaseException:
            await self.kill()
            raise
        return time.perf_counter() - began

    async def spawn(self) -> None:
        """Only start the process."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *RUN, str(self._config), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        """Wait until /readyz says so; AssertionError with the log's end when it never will."""
        assert self._process is not None
        began = time.perf_counter()
        async with aiohttp.ClientSession() as client:
            while not await _is_ready(client, self.base):
                if self._process.returncode is not None:
                    raise AssertionError(f"the bot ended while starting:\n{self.last_words()}")
                if time.perf_counter() - began > START_WITHIN:
                    raise AssertionError(f"not ready within {START_WITHIN:g} s:\n{self.last_words()}")
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._process = None

    def terminate(self) -> None:
        """SIGTERM: the polite way; `ended` waits for the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """The exit code, once the process has ended."""
        assert self._process is not None
        code = await asyncio.wait_for(self._process.wait(), STOP_WITHIN)
        self._process = None
        return code

    async def unanswered(self) -> int:
        """How many accepted messages have no committed answer, as /readyz tells it."""
        async with aiohttp.ClientSession() as client, client.get(self.base + "/readyz") as response:
            return int((await response.json())["store"]["unanswered"])

    def last_words(self) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""


async def _is_ready(client: aiohttp.ClientSession, base: str) -> bool:
    try:
        async with client.get(base + "/readyz") as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):
        return False
