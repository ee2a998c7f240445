"""A self-built application (自建应用) as the core sees it: encrypted callbacks in, answers out."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable

import structlog
from aiohttp import web

from bot.config_connectors import WecomAppSettings
from bot.connectors.base import Capabilities, Inlet, Receipt, Status
from bot.connectors.http import Refused
from bot.connectors.wecom import xml
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.app_messages import KIND, Ignored, KfEvent, read
from bot.connectors.wecom.app_sender import MAX_TEXT, AppSender
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.content import plain_text
from bot.connectors.wecom.passive import PassiveReplies
from bot.errors import Overloaded, StoreError, Undeliverable
from bot.message import Message, Segment
from bot.metrics import Metrics
from bot.reply import Outgoing, Target

log = structlog.get_logger(__name__)
PASSIVE_WITHIN = 4.0
"""Seconds after which a callback is acknowledged without an answer: WeCom hangs up after 5."""
BUSY_SECONDS = 5.0
CHECKS = (5.0, 15.0, 60.0, 300.0)
"""Seconds before each next try to get a token; the last entry repeats."""


class App:
    """One application; see `bot.connectors.base.Connector`. Implements `MediaSource`, too.

    A chat is a member's userid, or "appchat:ID" for a group chat that the application has made.
    """

    kind = KIND

    def __init__(
        self, settings: WecomAppSettings, *, callback: Callback, api: QyApi, metrics: Metrics
    ) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(
            max_text=MAX_TEXT,
            unit="bytes",
            attachments=frozenset({"image", "voice", "video", "file", "link"}),
        )
        self._settings = settings
        self._callback = callback
        self._api = api
        self._sender = AppSender(settings, api=api, metrics=metrics)
        self._passive = PassiveReplies()
        self._accounts: dict[str, Callable[[str], None]] = {}
        self._inlet: Inlet | None = None
        self._check: asyncio.Task[None] | None = None

    def route_kf(self, kf_id: str, wake: Callable[[str], None]) -> None:
        """Pass on the events of a customer service account: `wake` gets each one's token."""
        self._accounts[kf_id] = wake

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """GET (verification of the URL) and POST /wecom-app/NAME."""
        here = f"/{KIND}/{self.name}"
        return [web.get(here, self._callback.verify, allow_head=False), web.post(here, self._receive)]

    async def start(self, inlet: Inlet) -> None:
        """Begin to accept messages; whether the secret is right is found out in the background."""
        self._inlet = inlet
        self._check = asyncio.create_task(self._check_secret(), name=f"{KIND} {self.name}")

    async def stop(self) -> None:
        """Accept nothing more; open callbacks still get their answers."""
        self._inlet = None
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)
            self._check = None
        self.status.state = "stopped"

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def typing(self, target: Target) -> None:
        """WeCom shows no such thing."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """An application sends whole answers only."""
        return None

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        """See `bot.connectors.base.MediaSource`."""
        if not segment.ref or segment.type not in ("image", "voice", "video", "file"):
            raise Undeliverable("this segment is no medium")
        return await self._api.download(segment.ref, limit)

    # -- inbound ----------------------------------------------------------------------------

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """200 for all that is WeCom's, once it is committed: anything else would be sent again."""
        arrived = asyncio.get_running_loop().time()
        opened = await self._callback.open_xml(request)
        inlet = self._inlet
        if inlet is None:
            raise Refused(503, "the bot is starting or stopping", retry_after=BUSY_SECONDS)
        try:
            item = read(xml.parse(opened.plain), self.name, self._settings.agent_id)
        except xml.BadXml as error:
            item = Ignored(f"what is no message: {error.problem}")
        if isinstance(item, KfEvent):
            return self._woken(item)
        if isinstance(item, Ignored):
            (log.debug if item.expected else log.warning)("ignored", bot=self.name, what=item.reason)
            return web.Response()
        if self._settings.reply == "passive":
            return await self._answer(request, item, inlet, arrived + PASSIVE_WITHIN)
        await self._commit(item, inlet)
        return web.Response()

    def _woken(self, event: KfEvent) -> web.Response:
        wake = self._accounts.get(event.kf_id)
        if wake is None:
            log.warning("ignored", bot=self.name, what="an account that is not configured", kf_id=event.kf_id)
        else:
            wake(event.token)
        return web.Response()

    async def _commit(self, message: Message, inlet: Inlet) -> Receipt:
        try:
            return await inlet.receive(message)
        except Overloaded as error:
            raise Refused(503, "busy", retry_after=error.retry_after) from None
        except StoreError as error:
            log.error("a callback is not committed, WeCom will send it again", problem=error.problem)
            raise Refused(503, "not stored", retry_after=BUSY_SECONDS) from None

    async def _answer(
        self, request: web.Request, message: Message, inlet: Inlet, until: float
    ) -> web.Response:
        """The first part of the answer where it is there in time, else nothing: `send` does the rest."""
        with self._passive.slot(message.delivery) as slot:
            receipt = await self._commit(message, inlet)
            part = None if receipt.duplicate else await slot.part(inlet, receipt.inbox_id, until)
            if part is None:
                return web.Response()
            response = web.Response(body=self._sealed(part, message.user.id), content_type="text/xml")
            try:
                await slot.write(request, response)
            except ConnectionError:
                log.info("WeCom left before the answer, it goes out by itself", bot=self.name, outbox=part.id)
            return response

    def _sealed(self, part: Outgoing, user: str) -> bytes:
        fields: dict[str, str | int] = {
            "ToUserName": user,
            "FromUserName": self._settings.corp_id,
            "CreateTime": int(time.time()),
            "MsgType": "text",
            "Content": plain_text(part),
        }
        return self._callback.seal_xml(xml.build(fields))

    # -- outbound ---------------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send one part, in the response to the callback it answers while that is open.

        Raises ConnectorError, or Undeliverable for what WeCom will never take.
        """
        if outgoing.attachment is None and await self._passive.offer(outgoing):
            return None
        try:
            msgid = await self._sender.send(outgoing)
        except ApiError as error:
            if error.permanent:
                raise Undeliverable(error.problem, code=error.code) from None
            self._fails(error)
            raise
        self._works()
        return msgid

    async def _check_secret(self) -> None:
        for delay in itertools.chain(CHECKS, itertools.repeat(CHECKS[-1])):
            try:
                await self._api.check()
            except ApiError as error:
                self._fails(error)
                await asyncio.sleep(delay)
            else:
                self._works()
                return

    def _works(self) -> None:
        if self.status.state in ("starting", "retrying"):
            self.status.state, self.status.detail = "ok", ""

    def _fails(self, error: ApiError) -> None:
        if self.status.state in ("starting", "ok"):
            self.status.state = "retrying"
        self.status.detail = error.summary
