"""The console: a chat over standard input and output."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import locale
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO
from uuid import uuid4

import structlog
from aiohttp import web

from bot.config_connectors import ConsoleSettings
from bot.connectors.base import Capabilities, Inlet, Status
from bot.errors import Overloaded, StoreError
from bot.message import Chat, Message, User
from bot.reply import Outgoing, Target

log = structlog.get_logger(__name__)
PROMPT = "> "
MAX_LINE = 64 * 1024
ANSWER_CHECKED_EVERY = 60.0
_CHUNK = 4096
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))  # terminals act on them


class Console:
    """One user, one chat; lines are answered in their order, and the end of the input ends the talk.

    Reading and writing block, so each has a thread of its own. `stdin` is a file descriptor: a thread
    that waits inside of Python's own stdin would hold up the end of the process.
    """

    kind = "console"
    capabilities = Capabilities(max_text=1_000_000, pull=True, streaming=True)

    def __init__(self, settings: ConsoleSettings, *, stdin: int = 0, stdout: TextIO | None = None) -> None:
        self.name = settings.name
        self.status = Status()
        self._stdin = stdin
        self._stdout = stdout or sys.stdout
        self._is_terminal = os.isatty(stdin)
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = threading.Semaphore(100)
        self._words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._growing: dict[str, str] = {}
        self._ended = asyncio.Event()

    def routes(self) -> list[web.AbstractRouteDef]:
        """No routes."""
        return []

    async def start(self, inlet: Inlet) -> None:
        """Begin to read."""
        loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write, args=(loop,), name="console-out", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, args=(loop,), name="console-in", daemon=True).start()
        self._task = asyncio.create_task(self._talk(inlet), name="console")
        self.status.state = "ok"

    async def wait(self) -> None:
        """Return once the input has ended and every line of it is answered."""
        await self._ended.wait()

    async def stop(self) -> None:
        """Take no more lines."""
        if self._task is not None:
            self._task.cancel()
        self.status.state = "stopped"
        self._ended.set()

    async def close(self) -> None:
        """Let what is still to be printed out."""
        self._words.put(None)
        if self._writer is not None:
            await asyncio.to_thread(self._writer.join, 2.0)

    # -- answers ----------------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """Print a part, or what a streamed one still lacks."""
        shown = self._growing.pop(outgoing.target.message_id, "")
        text = outgoing.text.translate(_CONTROL)
        if shown and not text.startswith(shown.rstrip()):
            shown, text = "", f"\n{text}"  # not what was streamed: print it whole
        self._words.put(f"{text[len(shown) :]}\n")
        return None

    async def typing(self, target: Target) -> None:
        """Not shown."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """Print what is new of a streamed answer."""
        text = text.translate(_CONTROL).lstrip()
        before = self._growing.get(target.message_id, "")
        if text.startswith(before):
            self._growing[target.message_id] = text
            self._words.put(text[len(before) :])
        return None

    # -- questions --------------------------------------------------------------------------

    async def _talk(self, inlet: Inlet) -> None:
        """Hand over one line at a time, the next one when it is answered."""
        self._prompt()
        while (line := await self._lines.get()) is not None:
            self._room.release()
            if line.strip():
                await self._say(inlet, line)
            self._prompt()
        self.status.state, self.status.detail = "off", "the input has ended"
        self._ended.set()

    async def _say(self, inlet: Inlet, line: str) -> None:
        try:
            receipt = await inlet.receive(self._message(line))
            while not (await inlet.outcome(receipt.inbox_id, wait=ANSWER_CHECKED_EVERY)).done:
                log.debug("still waiting for an answer")
        except Overloaded as error:
            self._words.put(f"! {error}\n")
        except StoreError as error:
            self._words.put(f"! the database does not answer: {error}\n")

    def _message(self, line: str) -> Message:
        delivery = uuid4().hex
        return Message(
            connector=self.kind,
            bot=self.name,
            delivery=delivery,
            chat=Chat("console"),
            user=User("console", language=(locale.getlocale()[0] or "").partition("_")[0] or None),
            text=line,
            id=delivery,
            mentioned=True,
        )

    def _prompt(self) -> None:
        if self._is_terminal:
            self._words.put(PROMPT)

    # -- threads ----------------------------------------------------------------------------

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed while this thread waited
            for line in _lines(self._stdin):
                self._room.acquire()
                loop.call_soon_threadsafe(self._lines.put_nowait, line)
            loop.call_soon_threadsafe(self._lines.put_nowait, None)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while (words := self._words.get()) is not None:
                self._stdout.write(words)
                self._stdout.flush()
        except (OSError, ValueError):  # nobody reads any more: that ends the talk, too
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._lines.put_nowait, None)


def _lines(descriptor: int) -> Iterator[str]:
    """The lines of a file, cut where they are longer than anyone asks; bad bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while True:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError:
            chunk = b""
        *lines, rest = (rest + decoder.decode(chunk, final=not chunk)).split("\n")
        yield from (line.rstrip("\r") for line in lines)
        if len(rest) > MAX_LINE or (rest and not chunk):
            yield rest
            rest = ""
        if not chunk:
            return
