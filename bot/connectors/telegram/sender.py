"""Everything one bot writes: answers, growing answers, "typing", and what Telegram says to that."""

from __future__ import annotations

import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from bot.connectors.fields import mapping
from bot.connectors.telegram.api import ApiError, BotApi
from bot.connectors.telegram.buttons import keyboard
from bot.connectors.telegram.format import Formatted, formatted
from bot.connectors.telegram.limits import Pace
from bot.errors import ConnectorError, Undeliverable
from bot.message import clean_text
from bot.render import split_text
from bot.reply import Outgoing, Target

log = structlog.get_logger(__name__)
MAX_TEXT = 4096  # UTF-16 units, after entities parsing
FIRST_SHOWN = 24
"""A growing answer becomes a message once it is this long: shorter ones are sent whole."""
SHOW_TIMEOUT = 5.0
DRAFTS_AGAIN = 3600.0
_PERMANENT = (400, 403, 413)


class Sender:
    """Sends for one bot.

    `label` looks up a button's text (catalogue key, text of the answer); `on_moved` is told once that a
    group has a new id. Memory is bounded: renamed chats and rated answers are forgotten, oldest first.
    """

    def __init__(
        self,
        api: BotApi,
        *,
        feedback: bool,
        label: Callable[[str, str], str],
        on_moved: Callable[[str, str], Awaitable[None]],
        pace: Pace | None = None,
    ) -> None:
        self._api = api
        self._feedback = feedback
        self._label = label
        self._on_moved = on_moved
        self._pace = pace or Pace()
        self._drafts_from = 0.0
        self._new_ids: OrderedDict[str, str] = OrderedDict()
        self._rated: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._unsure: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def moved(self, old: str, new: str) -> None:
        """A group has a new id: tell the core, and send there from now on. Raises StoreError."""
        if self._new_ids.get(old) != new:
            await self._on_moved(old, new)
            _keep(self._new_ids, old, new, 1_000)

    def rated(self, chat: str, message_id: str) -> int | None:
        """The inbox id that a message with feedback buttons answers, while it is remembered."""
        return self._rated.get((chat, message_id))

    # -- answers ----------------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send or complete one part; see `Connector.send`."""
        chat = self._chat(outgoing.target)
        held = self._pace.held(chat)
        if held:
            raise ConnectorError("Telegram asked to wait", retry_after=held, code=429)
        await self._pace.turn(chat)
        try:
            message_id = await self._deliver(outgoing, chat)
        except ApiError as error:
            self._heed(error, chat)
            if error.code in _PERMANENT:
                raise Undeliverable(error.problem, code=error.code) from None
            raise
        if message_id and outgoing.feedback and self._feedback and outgoing.inbox_id is not None:
            _keep(self._rated, (self._chat(outgoing.target), message_id), outgoing.inbox_id, 10_000)
        return message_id

    async def _deliver(self, outgoing: Outgoing, chat: str) -> str | None:
        content = self._content(outgoing)
        if outgoing.edits:
            try:
                await self._write("editMessageText", _edited(chat, outgoing.edits) | content)
                return outgoing.edits
            except ApiError as error:
                if error.not_modified:
                    return outgoing.edits
                if error.code != 400:
                    raise
                log.info("the message to complete is gone, the answer goes out anew", problem=error.problem)
        place = _place(outgoing.target, chat, quote=outgoing.part == 0)
        try:
            return _message_id(await self._write("sendMessage", place | content))
        except ApiError as error:
            if error.migrate_to is None:
                raise
            await self.moved(chat, error.migrate_to)
            place = _place(outgoing.target, error.migrate_to, quote=False)
            return _message_id(await self._write("sendMessage", place | content))

    async def _write(self, method: str, params: Mapping[str, Any]) -> Any:
        """Call with entities; where that is refused, once more as plain text."""
        try:
            return await self._api.call(method, params)
        except ApiError as error:
            refused = error.code == 400 and not error.not_modified and error.migrate_to is None
            if "entities" not in params or not refused:
                raise
            log.warning("formatting was refused, sending plain text", problem=error.problem)
            return await self._api.call(
                method, {key: value for key, value in params.items() if key != "entities"}
            )

    def _content(self, outgoing: Outgoing) -> dict[str, Any]:
        text = clean_text(outgoing.text)
        content = _text(text, markdown=outgoing.markdown)
        buttons = keyboard(outgoing, lambda key: self._label(key, text), feedback=self._feedback)
        if buttons:
            content["reply_markup"] = buttons
        return content

    # -- what is only shown -----------------------------------------------------------------

    async def show(self, target: Target, text: str, shown: str | None, *, markdown: bool) -> str | None:
        """Show a growing answer: by drafts in private chats, else by editing a message.

        See `Connector.progress`; never raises, since the answer itself comes by `send`.
        """
        chat = self._chat(target)
        pieces = split_text(clean_text(text), MAX_TEXT, "utf16", markdown=markdown)
        drafting = shown is None and not target.group and time.monotonic() >= self._drafts_from
        if shown is None and (chat, target.delivery) in self._unsure:
            return None
        if not pieces or (shown is None and not drafting and len(text) < FIRST_SHOWN):
            return shown
        piece = pieces[-1] if drafting else pieces[0]
        if not self._pace.may_show(chat, piece, group=target.group):
            return shown
        content = _text(piece, markdown=markdown)
        try:
            if drafting:
                await self._draft(target, chat, content)
            elif shown is None:
                params = _place(target, chat, quote=True) | content
                return _message_id(await self._api.call("sendMessage", params, timeout=SHOW_TIMEOUT))
            else:
                params = _edited(chat, shown) | content
                await self._api.call("editMessageText", params, timeout=SHOW_TIMEOUT)
        except ApiError as error:
            self._heed(error, chat)
            log.debug("a growing answer was not shown", problem=error.problem)
            if shown is None and not drafting and error.code is None:
                _keep(self._unsure, (chat, target.delivery), None, 1_000)  # it may have arrived all the same
        return shown

    async def _draft(self, target: Target, chat: str, content: Mapping[str, Any]) -> None:
        """Show a draft; a server that does not know drafts is not asked again for an hour."""
        params = _place(target, chat, quote=False) | {"draft_id": _draft_id(target)}
        params |= {name: value for name, value in content.items() if name in ("text", "entities")}
        try:
            await self._api.call("sendMessageDraft", params, timeout=SHOW_TIMEOUT)
        except ApiError as error:
            if error.code in (400, 404) or (error.code or 0) >= 500:
                self._drafts_from = time.monotonic() + DRAFTS_AGAIN
            raise

    async def typing(self, target: Target) -> None:
        """Show "typing" for some seconds; never raises."""
        chat = self._chat(target)
        if self._pace.held(chat):
            return
        try:
            params = _place(target, chat, quote=False) | {"action": "typing"}
            await self._api.call("sendChatAction", params, timeout=SHOW_TIMEOUT)
        except ApiError as error:
            self._heed(error, chat)
            log.debug("typing was not shown", problem=error.problem)

    # -- where it goes ----------------------------------------------------------------------

    def _chat(self, target: Target) -> str:
        return self._new_ids.get(target.chat, target.chat)

    def _heed(self, error: ApiError, chat: str) -> None:
        if error.retry_after:
            self._pace.hold(chat, error.retry_after)


def _text(text: str, *, markdown: bool) -> dict[str, Any]:
    shown = formatted(text) if markdown else Formatted(text)
    content: dict[str, Any] = {"text": shown.text, "link_preview_options": {"is_disabled": True}}
    if shown.entities:
        content["entities"] = shown.entities
    return content


def _place(target: Target, chat: str, *, quote: bool) -> dict[str, Any]:
    """Where a message goes: chat, topic and, if `quote`, the message it answers.

    After a chat has moved its old message ids mean nothing.
    """
    place: dict[str, Any] = {"chat_id": _number(chat)}
    if target.thread:
        place["message_thread_id"] = _number(target.thread)
    if quote and target.message_id and chat == target.chat:
        place["reply_parameters"] = {
            "message_id": _number(target.message_id),
            "allow_sending_without_reply": True,
        }
    return place


def _edited(chat: str, message_id: str) -> dict[str, Any]:
    return {"chat_id": _number(chat), "message_id": _number(message_id)}


def _number(identity: str) -> int | str:
    """Ids travel as numbers; a public chat may also go by its @name."""
    try:
        return int(identity)
    except ValueError:
        return identity


def _message_id(result: Any) -> str | None:
    number = mapping(result).get("message_id")
    return str(number) if isinstance(number, int) else None


def _draft_id(target: Target) -> int:
    """Not zero, and the same for all drafts of one answer."""
    return zlib.crc32(f"{target.chat}:{target.delivery}".encode("utf-8", "replace")) & 0x7FFFFFFF or 1


def _keep(memory: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
