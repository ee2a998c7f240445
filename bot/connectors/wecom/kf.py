"""A customer service account (微信客服) as the core sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal

import structlog
from aiohttp import web

from bot.catalogue import Catalogue, language_of
from bot.config_connectors import WecomKfSettings
from bot.connectors.base import Capabilities, Inlet, Status
from bot.connectors.wecom import xml
from bot.connectors.wecom.api import QyApi
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.kf_desk import Desk
from bot.connectors.wecom.kf_messages import KIND
from bot.connectors.wecom.kf_pull import Puller
from bot.connectors.wecom.kf_sender import MAX_TEXT, Sender
from bot.connectors.wecom.kf_states import States
from bot.connectors.wecom.kf_talks import QUOTA, Talks
from bot.message import Segment
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from bot.store.cursors import Cursors

log = structlog.get_logger(__name__)


class Kf:
    """One account; see `bot.connectors.base.Connector`. Implements `HumanDesk` and `MediaSource`, too.

    A chat is a customer's external_userid. Who has a conversation is reported as the event `session`.
    """

    kind = KIND

    def __init__(
        self,
        settings: WecomKfSettings,
        *,
        api: QyApi,
        cursors: Cursors,
        callback: Callback | None,
        catalogue: Catalogue,
        language: Literal["auto", "zh", "en"],
        metrics: Metrics,
    ) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(
            max_text=MAX_TEXT,
            unit="bytes",
            max_parts=QUOTA,
            attachments=frozenset({"image", "voice", "video", "file"}),
            give_up_after=48 * 3600.0,
        )
        self._kf_id = settings.kf_id
        self._api = api
        self._callback = callback
        self._catalogue = catalogue
        self._language = language
        self._pulling: asyncio.Task[None] | None = None
        talks = Talks()
        self._desk = Desk(api, settings.kf_id, settings.servicers, talks)
        self._states = States(self.name, self._desk)
        self._puller = Puller(settings, api, cursors, self._states, talks, self.status, metrics)
        self._sender = Sender(
            self.name,
            settings.kf_id,
            api,
            self._desk,
            talks,
            metrics,
            feedback=settings.feedback,
            label=self._label,
            lost=self._states.lost,
        )

    def wake(self, token: str) -> None:
        """An event says that there is something to pull; see `App.route_kf`."""
        self._puller.wake(token)

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """GET (verification of the URL) and POST /wecom-kf/NAME, for an account with a token of its own."""
        if self._callback is None:
            return []
        here = f"/{KIND}/{self.name}"
        return [web.get(here, self._callback.verify, allow_head=False), web.post(here, self._called)]

    async def start(self, inlet: Inlet) -> None:
        """Begin to pull, from where the last process left off."""
        self._states.start(inlet)
        self._pulling = asyncio.create_task(self._puller.run(inlet), name=f"{KIND} {self.name}")

    async def stop(self) -> None:
        """Pull nothing any more; what the platform still has, it keeps for the next start."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
            self._pulling = None
        self._states.stop()
        self.status.state = "stopped"

    async def close(self) -> None:
        """Finish what is being asked, and give the connections back."""
        await self._states.close()
        await self._api.close()

    async def send(self, outgoing: Outgoing) -> str | None:
        """See `Connector.send`."""
        return await self._sender.send(outgoing)

    async def typing(self, target: Target) -> None:
        """The platform cannot show it."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """The platform cannot show it."""
        return None

    async def hand_over(self, target: Target) -> None:
        """Give a conversation to a member on duty, else to the waiting pool; see `HumanDesk.hand_over`.

        The next text to this customer goes as the notice of it; after that the bot must not write.
        """
        await self._desk.hand_over(target)
        self._states.overtaken(target.chat)

    async def take_back(self, target: Target) -> None:
        """Take a conversation back from the waiting pool; one that a member has is ended instead.

        The next text to this customer goes as its last word; what the customer says next begins a new
        conversation, with the bot.
        """
        await self._desk.take_back(target)
        self._states.overtaken(target.chat)

    async def with_people(self, target: Target) -> bool:
        """Whether a member has a conversation, or it waits for one; see `HumanDesk.with_people`."""
        return await self._desk.is_human(target.chat)

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        """See `MediaSource.fetch`."""
        return await self._api.download(segment.ref, limit)

    async def _called(self, request: web.Request) -> web.Response:
        """Take a call on the account's own route; at once, since it says no more than "pull"."""
        if self._callback is None:
            raise web.HTTPNotFound
        opened = await self._callback.open_xml(request)
        try:
            event = xml.parse(opened.plain)
        except xml.BadXml as error:
            log.warning("a callback cannot be read", bot=self.name, problem=error.problem)
            return web.Response()
        if event.get("Event") == "kf_msg_or_event" and event.get("OpenKfId") == self._kf_id:
            self.wake(event.get("Token", ""))
        else:
            log.info("a callback is not for this account", bot=self.name, kind=event.get("Event", ""))
        return web.Response()

    def _label(self, key: str, answer: str) -> str:
        language = language_of(answer) if self._language == "auto" else self._language
        return self._catalogue.text(key, language)
