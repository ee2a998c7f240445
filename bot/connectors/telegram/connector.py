"""One Telegram bot as the core sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal

import aiohttp
from aiohttp import web

from bot.catalogue import Catalogue, language_of
from bot.config_connectors import TelegramSettings
from bot.connectors.base import Capabilities, Inlet, Status
from bot.connectors.telegram.api import BotApi
from bot.connectors.telegram.intake import Intake
from bot.connectors.telegram.receiver import Commands, Receiver
from bot.connectors.telegram.sender import MAX_TEXT, Sender
from bot.connectors.telegram.updates import KIND
from bot.connectors.telegram.webhook import Webhook
from bot.reply import Outgoing, Target


class Telegram:
    """A bot by long polling or webhook; see `bot.connectors.base.Connector`.

    `language` is that of buttons and toasts, `auto` for that of the answer; `commands` are offered in
    Telegram's menu; `session` is for sharing one, a connector without it makes its own.
    """

    kind = KIND

    def __init__(
        self,
        settings: TelegramSettings,
        *,
        catalogue: Catalogue,
        language: Literal["auto", "zh", "en"],
        max_body: int,
        commands: Commands | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.name = settings.name
        self.capabilities = Capabilities(max_text=MAX_TEXT, unit="utf16", streaming=settings.streaming)
        self.status = Status()
        self._settings = settings
        self._catalogue = catalogue
        self._language = language
        self._inlet: Inlet | None = None
        self._task: asyncio.Task[None] | None = None
        self._api = BotApi(settings.api_base, settings.token, session)
        self._sender = Sender(
            self._api, feedback=settings.feedback, label=self._button, on_moved=self._chat_moved
        )
        self._intake = Intake(self._api, self.name, self._sender, self._toast)
        self._receiver = Receiver(self._api, settings, self._intake, self.status, commands)
        secret = settings.secret.get_secret_value() if settings.secret else ""
        self._webhook = Webhook(self._intake, secret, max_body) if settings.mode == "webhook" else None

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """POST /telegram/NAME in webhook mode, else none."""
        return [web.post(f"/{KIND}/{self.name}", self._webhook.handle)] if self._webhook else []

    async def start(self, inlet: Inlet) -> None:
        """Connect in the background."""
        self._inlet = inlet
        self._api.open()
        if self._webhook is not None:
            self._webhook.inlet = inlet
        self._task = asyncio.create_task(self._receiver.run(inlet), name=f"{KIND} {self.name}")

    async def stop(self) -> None:
        """Receive nothing any more; what Telegram still has, it keeps for the next start."""
        if self._webhook is not None:
            self._webhook.inlet = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.status.state = "stopped"

    async def close(self) -> None:
        """Answer the last presses and give the connections back."""
        await self._intake.close()
        await self._api.close()

    async def send(self, outgoing: Outgoing) -> str | None:
        """See `Connector.send`."""
        return await self._sender.send(outgoing)

    async def typing(self, target: Target) -> None:
        """See `Connector.typing`."""
        await self._sender.typing(target)

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """See `Connector.progress`."""
        return await self._sender.show(target, text, shown, markdown=markdown)

    async def _chat_moved(self, old: str, new: str) -> None:
        if self._inlet is not None:
            await self._inlet.chat_moved(KIND, self.name, old, new)

    def _button(self, key: str, answer: str) -> str:
        language = language_of(answer) if self._language == "auto" else self._language
        return self._catalogue.text(key, language)

    def _toast(self, key: str, hint: str | None) -> str:
        language = (hint or "zh") if self._language == "auto" else self._language
        return self._catalogue.text(key, language)
