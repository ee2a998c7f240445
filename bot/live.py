"""What a user sees while an answer is being made: "typing", and a text that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import structlog

from bot.connectors.base import Connector
from bot.reply import Target

log = structlog.get_logger(__name__)
TYPING_AFTER = 0.4
TYPING_EVERY = 4.0


class Typing:
    """Shows that an answer is being written, once it takes long enough to be noticed."""

    def __init__(self, connector: Connector, target: Target) -> None:
        self._connector = connector
        self._target = target
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in a moment, unless stopped before."""
        self._timer = asyncio.get_running_loop().call_later(TYPING_AFTER, self._begin)

    def stop(self) -> None:
        """Show nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._show())

    async def _show(self) -> None:
        try:
            while True:
                await self._connector.typing(self._target)
                await asyncio.sleep(TYPING_EVERY)
        except Exception:
            log.exception("cannot show that an answer is being written", connector=self._connector.kind)


class LiveText:
    """Shows a streamed answer: the newest text, one call of the connector at a time, while it grows.

    `shown` is the platform's message that shows it, once there is one; `on_shown` is told so.
    """

    def __init__(
        self,
        connector: Connector,
        target: Target,
        markdown: bool,
        shown: str | None,
        on_shown: Callable[[str], Awaitable[None]],
    ) -> None:
        self.shown = shown
        self._connector = connector
        self._target = target
        self._markdown = markdown
        self._on_shown = on_shown
        self._text = ""
        self._news = asyncio.Event()
        self._whole = False

    async def play(self, chunks: AsyncIterator[str], on_chunk: Callable[[], None]) -> str:
        """Take the chunks to their end; returns the whole text. Raises what the iterator raises."""
        showing = asyncio.create_task(self._show()) if self._connector.capabilities.streaming else None
        try:
            async with aclosing(_closable(chunks)) as source:
                async for chunk in source:
                    self._text += chunk
                    on_chunk()
                    if chunk and self._text.strip():
                        self._news.set()
        finally:
            self._whole = True
            self._news.set()
            if showing is not None:
                await showing
        return self._text

    async def _show(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._whole:
                return
            try:
                shown = await self._connector.progress(
                    self._target, self._text, self.shown, markdown=self._markdown
                )
                if shown is not None and shown != self.shown:
                    self.shown = shown
                    await self._on_shown(shown)
            except Exception:
                log.exception("cannot show a streamed answer", connector=self._connector.kind)
                return


async def _closable(chunks: AsyncIterator[str]) -> AsyncGenerator[str]:
    """Any async iterator as a generator, which can be closed."""
    async for chunk in chunks:
        yield chunk
