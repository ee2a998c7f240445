"""Group robot (群机器人): pushes into the one group chat whose key it has [path/91770, path/99110]."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import structlog
from aiohttp import web

from bot.config_connectors import WecomRobotSettings
from bot.connectors.base import Capabilities, Inlet, Status
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.content import JPEG_OR_PNG, article, is_playable, plain_text
from bot.connectors.wecom.held import HeldSends
from bot.connectors.wecom.pace import Limit, Pace
from bot.errors import ConnectorError, Undeliverable
from bot.metrics import Metrics
from bot.reply import Outgoing, Target

log = structlog.get_logger(__name__)
MAX_TEXT = 2048
"""Bytes of a text message; markdown_v2 takes 4096, but each part must fit as text, too."""
PER_ROBOT = Limit(20, 60.0)
MAX_IMAGE = 2 << 20
"""Bytes of a JPEG or PNG before base64."""


class Robot:
    """One robot; see `bot.connectors.base.Connector`. It receives nothing, and every chat is its group."""

    kind = "wecom-robot"

    def __init__(self, settings: WecomRobotSettings, *, api: QyApi, metrics: Metrics) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(
            max_text=MAX_TEXT, unit="bytes", attachments=frozenset({"image", "voice", "file", "link"})
        )
        self._key = {"key": settings.key.get_secret_value()}
        self._api = api
        self._pace = Pace(PER_ROBOT)
        self._held = HeldSends(metrics, settings.name)

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """None: WeCom calls nobody for these robots."""
        return ()

    async def start(self, inlet: Inlet) -> None:
        """Ready at once; whether the key is right, only a message would tell."""
        self.status.state = "ok"

    async def stop(self) -> None:
        """Nothing to stop; sending goes on until `close`."""
        self.status.state = "stopped"

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def typing(self, target: Target) -> None:
        """WeCom shows no such thing."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """A robot sends whole messages only."""
        return None

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send one part; WeCom gives these messages no id.

        Raises ConnectorError, also while the robot has sent all it may within a minute; Undeliverable for
        what WeCom will never take. A dead key (93000) is no such case: the part waits, for the operator
        may put the robot back or set another key.
        """
        self._admit(outgoing)
        try:
            await self._deliver(outgoing)
        except ApiError as error:
            if error.permanent:
                raise Undeliverable(error.problem, code=error.code) from None
            if self.status.state == "ok":
                self.status.state = "retrying"
            self.status.detail = error.summary
            raise
        if self.status.state == "retrying":
            self.status.state, self.status.detail = "ok", ""
        return None

    def _admit(self, outgoing: Outgoing) -> None:
        """Count a message against the limit. Raises ConnectorError until it fits."""
        wait = self._pace.take("")
        if not wait:
            return
        if self._held.note("robot", outgoing.key):
            log.warning(
                "a robot may send no more for now", bot=self.name, outbox=outgoing.id, wait=round(wait)
            )
        raise ConnectorError("a robot may send 20 messages a minute", retry_after=wait)

    async def _deliver(self, outgoing: Outgoing) -> None:
        """Send a part as what it is, or as text: an older WeCom does not take markdown_v2, say."""
        if outgoing.attachment is not None or outgoing.markdown:
            try:
                await self._post(*await self._shown(outgoing), outgoing)
            except ApiError as error:
                if not error.refused:
                    raise
                log.warning("refused, sending text instead", bot=self.name, problem=error.problem)
            else:
                return
        await self._post("text", {"content": plain_text(outgoing)}, outgoing)

    async def _shown(self, outgoing: Outgoing) -> tuple[str, dict[str, Any]]:
        """(msgtype, content); an image or recording of a kind that WeCom does not show goes as a file."""
        item = outgoing.attachment
        if item is None:
            return "markdown_v2", {"content": outgoing.text}
        if item.kind == "link":
            return "news", {"articles": [article(item)]}
        if item.kind == "image" and item.data.startswith(JPEG_OR_PNG) and len(item.data) <= MAX_IMAGE:
            digest = hashlib.md5(item.data, usedforsecurity=False).hexdigest()
            return "image", {"base64": base64.b64encode(item.data).decode(), "md5": digest}
        kind = "voice" if item.kind == "voice" and is_playable(item) else "file"
        media_id = await self._api.upload(
            kind,
            item.name,
            item.data,
            params=self._key,
            method="webhook/upload_media",
            part=outgoing.key,
        )
        return kind, {"media_id": media_id}

    async def _post(self, msgtype: str, content: dict[str, Any], outgoing: Outgoing) -> None:
        payload = {"msgtype": msgtype, msgtype: content}
        await self._api.send("webhook/send", payload, params=self._key, part=outgoing.key)
