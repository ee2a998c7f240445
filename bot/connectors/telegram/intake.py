"""From updates to the core's inbox, in order, before anything is confirmed to Telegram."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from bot.connectors.base import Inlet
from bot.connectors.telegram.api import ApiError, BotApi
from bot.connectors.telegram.sender import Sender
from bot.connectors.telegram.updates import Me, Moved, Press, Reader
from bot.message import Message

log = structlog.get_logger(__name__)


class Intake:
    """Hands one bot's updates to the core; `label` looks up a toast's text (key, the user's language)."""

    def __init__(
        self, api: BotApi, name: str, sender: Sender, label: Callable[[str, str | None], str]
    ) -> None:
        self.me: Me | None = None
        self._api = api
        self._name = name
        self._sender = sender
        self._label = label
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, updates: Sequence[Mapping[str, Any]], inlet: Inlet) -> None:
        """Commit some updates; on return they may be confirmed. Needs `me`.

        Raises Overloaded or StoreError: they are to be taken again then, whole.
        """
        if self.me is None:
            raise ValueError("updates cannot be read before getMe")
        reader = Reader(self.me, self._name, self._sender.rated)
        messages: list[Message] = []
        presses: list[Press] = []
        for update in updates:
            item = _read(reader, update)
            if isinstance(item, Press):
                presses.append(item)
                item = item.message
            if isinstance(item, Message):
                messages.append(item)
            elif isinstance(item, Moved):
                await self._commit(messages, inlet)
                await self._sender.moved(item.old, item.new)
        await self._commit(messages, inlet)
        for press in presses:  # not before: updates that are taken again would be answered again
            self._answer(press)

    async def close(self) -> None:
        """Let the last presses be answered."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)
        for task in set(self._tasks):
            task.cancel()

    @staticmethod
    async def _commit(messages: list[Message], inlet: Inlet) -> None:
        if messages:
            await inlet.receive_many(messages)
            messages.clear()

    def _answer(self, press: Press) -> None:
        """Take the spinner off the button, which Telegram wants soon, whatever becomes of the press."""
        task = asyncio.create_task(self._answered(press), name="telegram press")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, press: Press) -> None:
        params = {"callback_query_id": press.query}
        if press.toast:
            params["text"] = self._label(press.toast, press.language)[:200]
        try:
            await self._api.call("answerCallbackQuery", params, timeout=10)
        except ApiError as error:  # too old, or answered before
            log.debug("a press was not answered", problem=error.problem)


def _read(reader: Reader, update: Mapping[str, Any]) -> Message | Moved | Press | None:
    """Read one update; one that cannot be read must not hold up those behind it."""
    try:
        return reader.read(update)
    except Exception:
        log.exception("an update could not be read", update_id=update.get("update_id"))
        return None
