"""The connection to Telegram: long polling or a webhook kept in place, tried again for ever."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from bot.config_connectors import TelegramSettings
from bot.connectors.base import Inlet, Status
from bot.connectors.fields import integer, items, mapping, string
from bot.connectors.telegram.api import ApiError, BotApi
from bot.connectors.telegram.intake import Intake
from bot.connectors.telegram.updates import KINDS, Me
from bot.errors import Overloaded, StoreError

log = structlog.get_logger(__name__)
POLL_SECONDS = 30
MARGIN = 15.0
MAX_CONNECTIONS = 40
MAX_WAIT = 30.0
WAIT_REFUSED = 60.0
CHECK_WEBHOOK_EVERY = 300.0
_COMMAND = re.compile(r"[a-z0-9_]{1,32}")

Commands = Callable[[], Sequence[tuple[str, str]]]
"""(name, description) of the bot's commands, looked up when connecting."""


class Receiver:
    """Keeps one bot connected and says how that goes in `status`."""

    def __init__(
        self,
        api: BotApi,
        settings: TelegramSettings,
        intake: Intake,
        status: Status,
        commands: Commands | None = None,
    ) -> None:
        self._api = api
        self._settings = settings
        self._intake = intake
        self._status = status
        self._commands = commands
        self._failures = 0

    async def run(self, inlet: Inlet) -> None:
        """Connect and receive, and after any failure again, until cancelled."""
        while True:
            try:
                await self._connect()
                if self._settings.mode == "polling":
                    await self._poll(inlet)
                else:
                    await self._watch_webhook()
            except ApiError as error:
                await asyncio.sleep(self._failed(error.problem, error.code, error.retry_after))
            except Exception as error:
                log.exception("receiving failed", bot=self._settings.name)
                await asyncio.sleep(self._failed(type(error).__name__))

    async def _connect(self) -> None:
        me = mapping(await self._api.call("getMe"))
        number = integer(me.get("id"))
        if number is None:
            raise ApiError("getMe", "the answer has no id")
        self._intake.me = Me(number, string(me.get("username")))
        if self._settings.mode == "polling":
            await self._api.call("deleteWebhook")
        else:
            secret = self._settings.secret
            params = {
                "url": self._settings.public_url,
                "secret_token": secret.get_secret_value() if secret else None,
                "max_connections": MAX_CONNECTIONS,
                "allowed_updates": KINDS,
            }
            await self._api.call("setWebhook", params)
            self._failures = 0
        self._connected()
        await self._tell_commands()

    async def _tell_commands(self) -> None:
        """Let Telegram offer the commands; it does not matter much if it will not."""
        commands = [
            {"command": name, "description": description[:256] or name}
            for name, description in (self._commands() if self._commands else ())
            if _COMMAND.fullmatch(name)
        ]
        if not commands:
            return
        try:
            await self._api.call("setMyCommands", {"commands": commands[:100]})
        except ApiError as error:
            log.info("the list of commands was not taken", bot=self._settings.name, problem=error.problem)

    async def _poll(self, inlet: Inlet) -> None:
        """Ask for updates and confirm each batch, by the next offset, only once it is committed."""
        offset: int | None = None
        while True:
            params: dict[str, Any] = {"timeout": POLL_SECONDS, "limit": 100, "allowed_updates": KINDS}
            if offset is not None:
                params["offset"] = offset
            asked = time.monotonic()
            result = await self._api.call("getUpdates", params, timeout=POLL_SECONDS + MARGIN)
            self._failures = 0
            self._connected()
            updates = [mapping(update) for update in items(result)]
            following = _following(updates)
            if following is not None:
                await self._take(updates, inlet)
            if following in (None, offset) and time.monotonic() - asked < 1:
                await asyncio.sleep(0.3)  # a server that does not hold long polls must not be hammered
            # What an empty answer has confirmed needs no offset any more: after a quiet week ids begin anew.
            offset = following

    async def _take(self, updates: Sequence[Mapping[str, Any]], inlet: Inlet) -> None:
        """Commit a batch, however often that takes: it is not confirmed before."""
        while True:
            try:
                await self._intake.take(updates, inlet)
            except Overloaded as error:
                await asyncio.sleep(min(error.retry_after, 1.0))
            except StoreError as error:
                await asyncio.sleep(self._failed(f"the store takes nothing: {error}"))
            else:
                self._connected()
                return

    async def _watch_webhook(self) -> None:
        """Return when Telegram no longer calls this bot's URL: something else has set another one."""
        while True:
            await asyncio.sleep(CHECK_WEBHOOK_EVERY)
            info = mapping(await self._api.call("getWebhookInfo"))
            if info.get("url") != self._settings.public_url:
                log.warning("the webhook was changed, setting it again", bot=self._settings.name)
                return

    def _connected(self) -> None:
        if self._status.state != "ok":
            log.info("connected to Telegram", bot=self._settings.name, mode=self._settings.mode)
        self._status.state, self._status.detail = "ok", ""

    def _failed(self, problem: str, code: int | None = None, retry_after: float | None = None) -> float:
        """Note a failure; returns the seconds until the next try."""
        if code == 401:
            problem = f"{problem}: the token is not valid (any more), ask @BotFather"
        elif code == 409:
            problem = f"{problem}: is another process running this bot?"
        if self._status.detail != problem:
            log.warning("not connected to Telegram", bot=self._settings.name, problem=problem)
        self._status.state, self._status.detail = "retrying", problem
        wait = min(2.0**self._failures, MAX_WAIT)
        self._failures = min(self._failures + 1, 10)
        if code in (401, 404):
            wait = WAIT_REFUSED
        return max(wait, retry_after or 0.0)


def _following(updates: Sequence[Mapping[str, Any]]) -> int | None:
    """The offset that confirms some updates: one more than the highest id (ids may start anew, lower)."""
    numbers = [number for update in updates if (number := integer(update.get("update_id"))) is not None]
    return max(numbers) + 1 if numbers else None
