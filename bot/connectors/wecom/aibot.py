"""An intelligent robot (智能机器人): encrypted JSON callbacks, answered by streams.

A bot of this kind cannot speak first. An answer is fetched by WeCom, which asks again and again for the
text so far; one that WeCom no longer asks for goes to the response_url of its question, once.
Sources: path/101031 (streams), path/101138 (response_url), path/101463 (limits).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from aiohttp import web

from bot.catalogue import Catalogue, language_of
from bot.config_connectors import WecomAibotSettings
from bot.connectors.base import Capabilities, Inlet, Receipt, Status
from bot.connectors.http import Refused
from bot.connectors.wecom.aibot_media import MediaFiles
from bot.connectors.wecom.aibot_messages import KIND, Ignored, Reader, Refresh, answered_by
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.client import ApiError, Http
from bot.connectors.wecom.crypto import Crypto
from bot.connectors.wecom.held import HeldSends
from bot.connectors.wecom.pace import Limit, Pace
from bot.connectors.wecom.streams import KEEP, MAX_CONTENT, Answer, Stream, Streams, Taken, encoded
from bot.errors import ConnectorError, Overloaded, StoreError, Undeliverable
from bot.message import Message, Segment
from bot.metrics import LostReason, Metrics
from bot.reply import Outgoing, Target

log = structlog.get_logger(__name__)
BUSY_SECONDS = 5.0
LIMITS = (Limit(30, 60.0), Limit(1000, 3600.0))
"""Messages to one chat, replies included; a refresh is none."""
VALID = 3600.0
"""Seconds that a response_url can be used."""
URL_PATIENCE = 90.0
"""Seconds for which a response_url is tried: its group's other answers wait, and it may have been used."""
MAX_WAITED = 60.0
"""Seconds that WeCom is believed to have waited for a message to arrive: its clock may be another."""
_BUSY = -1


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: `quick` until a stream begins without its answer, `welcome` until an event gets none;
    `gone` without a question until WeCom is taken to ask no more; `forced` until a stream is ended for the
    answer to come later, since WeCom asks for 360 at most."""

    quick: float = 1.0
    welcome: float = 4.0
    gone: float = 10.0
    forced: float = 330.0


class Aibot:
    """One robot; see `bot.connectors.base.Connector`. Implements `MediaSource`, too.

    `language` is that of what is added to a text, `auto` for that of the text.
    """

    kind = KIND

    def __init__(
        self,
        settings: WecomAibotSettings,
        *,
        callback: Callback,
        crypto: Crypto,
        http: Http,
        catalogue: Catalogue,
        language: Literal["auto", "zh", "en"],
        metrics: Metrics,
        patience: Patience = Patience(),
    ) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(
            max_text=MAX_CONTENT,
            unit="bytes",
            streaming=True,
            attachments=frozenset({"image"}),
            give_up_after=VALID,
            speaks_first=False,
        )
        self._feedback = settings.feedback
        self._callback = callback
        self._http = http
        self._catalogue = catalogue
        self._language = language
        self._metrics = metrics
        self._patience = patience
        self._reader = Reader(settings.name, settings.robot_name, settings.api_base)
        self._media = MediaFiles(crypto, settings.api_base)
        self._streams = Streams()
        self._taken = Taken()
        self._held = HeldSends(metrics, settings.name)
        self._pace = Pace(*LIMITS)
        self._inlet: Inlet | None = None
        self._core: Inlet | None = None
        self._started_at = 0.0
        self._watchers: set[asyncio.Task[None]] = set()

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """GET (verification of the URL) and POST /wecom-aibot/NAME."""
        here = f"/{KIND}/{self.name}"
        return [web.get(here, self._callback.verify, allow_head=False), web.post(here, self._receive)]

    async def start(self, inlet: Inlet) -> None:
        """Begin to accept messages."""
        self._inlet = self._core = inlet
        self._started_at = time.monotonic()
        self.status.state = "ok"

    async def stop(self) -> None:
        """Accept nothing more; streams still get their answers."""
        self._inlet = None
        self.status.state = "stopped"

    async def close(self) -> None:
        """Give everything back."""
        self._core = None
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._http.close()

    async def typing(self, target: Target) -> None:
        """An open stream shows it."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """See `Connector.progress`; WeCom fetches the text with its next question."""
        stream = self._streams.get(target.delivery)
        if stream is not None:
            stream.grow(text)
        return None

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        """See `bot.connectors.base.MediaSource`; a file can be had for 5 minutes."""
        if not segment.ref or segment.type not in ("image", "video", "file"):
            raise Undeliverable("this segment is no medium")
        return await self._media.fetch(segment.ref, limit)

    # -- WeCom asks -------------------------------------------------------------------------

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """200 for all that is WeCom's, once it is committed."""
        opened = await self._callback.open_json(request)
        item = self._reader.read(opened.plain)
        if isinstance(item, Ignored):
            (log.debug if item.expected else log.warning)("ignored", bot=self.name, what=item.reason)
            return web.Response()
        if isinstance(item, Refresh):
            return await self._refresh(request, opened.nonce, item.stream)
        return await self._take(request, opened.nonce, item)

    async def _take(self, request: web.Request, nonce: str, message: Message) -> web.StreamResponse:
        """Commit a message and answer it: at once if that is possible, else by a stream."""
        receipt = await self._commit(message)
        form = answered_by(message)
        if receipt.duplicate or not receipt.inbox_id or not form:
            return web.Response()
        waited = min(max(0.0, time.time() - message.time), MAX_WAITED) if message.time else 0.0
        stream = self._open(message.delivery, receipt.inbox_id, waited=waited)
        stream.asked()
        await stream.settled(self._patience.quick if form == "stream" else self._patience.welcome)
        answer = stream.answer
        silent = answer.is_empty if answer else form == "text"
        if silent or self._wait(message.chat.id, message.delivery):
            stream.close()  # what comes after all goes to the response_url
            return web.Response()
        if form == "text" and answer:
            return await self._respond(request, nonce, _welcome(answer), stream)
        body = stream.body()
        if self._feedback and (answer is None or answer.feedback):
            stream.offered = True
            body["stream"]["feedback"] = {"id": str(receipt.inbox_id)}
        return await self._respond(request, nonce, body, stream)

    async def _commit(self, message: Message) -> Receipt:
        if self._inlet is None:
            raise Refused(503, "the bot is starting or stopping", retry_after=BUSY_SECONDS)
        try:
            return await self._inlet.receive(message)
        except Overloaded as error:
            raise Refused(503, "busy", retry_after=error.retry_after) from None
        except StoreError as error:
            log.error("a callback is not committed", bot=self.name, problem=error.problem)
            raise Refused(503, "not stored", retry_after=BUSY_SECONDS) from None

    async def _refresh(self, request: web.Request, nonce: str, name: str) -> web.StreamResponse:
        """The text so far; the end of it for a stream that nobody knows."""
        stream = self._streams.get(name) or await self._resumed(name)
        if stream is None:
            return await self._respond(request, nonce, _nothing(name))
        stream.asked()
        if stream.answer is None and stream.age > self._patience.forced:
            language = language_of(stream.content) if self._language == "auto" else self._language
            stream.close("\n\n".join((stream.content, self._catalogue.text("stream_later", language))))
        return await self._respond(request, nonce, stream.body(), stream)

    async def _resumed(self, name: str) -> Stream | None:
        """The stream that an earlier process began for a message of this id."""
        if self._inlet is None:
            raise Refused(503, "the bot is starting or stopping", retry_after=BUSY_SECONDS)
        try:
            inbox_id = await self._inlet.find(KIND, self.name, name)
        except StoreError:
            raise Refused(503, "the store does not answer", retry_after=BUSY_SECONDS) from None
        if inbox_id is None:
            return None
        stream = self._open(name, inbox_id, resumed=True)
        stream.asked()
        await stream.settled(self._patience.quick)
        return stream

    async def _respond(
        self, request: web.Request, nonce: str, body: Mapping[str, Any], stream: Stream | None = None
    ) -> web.StreamResponse:
        """Write a reply to its end; only then has WeCom taken it."""
        whole = stream is not None and stream.answered
        content = stream.content if stream else ""
        has_images = "msg_item" in body.get("stream", {})
        sealed = await asyncio.to_thread(self._seal, body, nonce) if has_images else self._seal(body, nonce)
        response = web.Response(body=sealed, content_type="application/json")
        await response.prepare(request)
        await response.write_eof()
        if stream is not None:
            stream.written(content, whole=whole)
            if whole:
                self._taken.note(stream)
        return response

    def _seal(self, body: Mapping[str, Any], nonce: str) -> bytes:
        return self._callback.seal_json(encoded(body), nonce)

    # -- the bot answers --------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """See `Connector.send`: what is sent is what WeCom has taken.

        A part that others follow is only shown; the last one stands for all of them.
        """
        target = outgoing.target
        if outgoing.inbox_id is None or not target.delivery:
            raise Undeliverable("an intelligent robot can only answer, it cannot speak first")
        core = self._core
        if core is None:
            raise ConnectorError("the connector has not started", retry_after=1.0)
        if self._streams.get(target.delivery) is None:
            rest = self._taken.rest(target.delivery, outgoing.key)
            if rest is not None:  # WeCom has it, though its stream is forgotten
                if rest and outgoing.final:
                    await self._post(target, rest, {})
                return target.delivery
        stream = self._open(target.delivery, outgoing.inbox_id, resumed=True)
        if not outgoing.final:
            stream.say(outgoing.key, outgoing.text)
            return stream.id
        if stream.answer is None:
            stream.finish(Answer.of(await self._with_those_before(core, outgoing)))
        answer = stream.answer
        if answer is None or outgoing.key not in answer.keys:  # said after what the stream ended with
            answer = Answer.of(await self._with_those_before(core, outgoing))
        await self._deliver(stream, answer, target)
        return stream.id

    async def _with_those_before(self, core: Inlet, last: Outgoing) -> list[Outgoing]:
        """A final part and those before it that are not parts of an earlier answer, such as a question."""
        parts: list[Outgoing] = []
        assert last.inbox_id is not None
        for part in (await core.outcome(last.inbox_id)).replies:
            parts.append(part)
            if part.key == last.key:
                return parts
            if part.final:
                parts.clear()
        return [last]

    def _open(self, delivery: str, inbox_id: int, *, resumed: bool = False, waited: float = 0.0) -> Stream:
        """The stream of a message, begun if need be; `resumed` if its first reply was another process's."""
        stream = self._streams.get(delivery)
        if stream is None:
            stream = self._streams.open(delivery, inbox_id, self._started_at, waited)
            task = asyncio.create_task(self._watch(stream, resumed), name=f"{KIND} {self.name}")
            self._watchers.add(task)
            task.add_done_callback(self._watchers.discard)
        return stream

    async def _watch(self, stream: Stream, resumed: bool) -> None:
        """Put the answer into its stream once it is committed: it need not wait for others of its group.

        An answer without a final part, or silence, ends the stream here.
        """
        core = self._core
        if core is None:
            return
        try:
            outcome = await core.outcome(stream.inbox_id, wait=KEEP)
            if outcome.done and resumed:  # what was waited for lacks the parts of the earlier process
                outcome = await core.outcome(stream.inbox_id)
            if not outcome.done:
                return
            answer = Answer.of(outcome.replies)
            stream.finish(answer)
            if outcome.replies and not outcome.replies[-1].final:
                await self._deliver(stream, answer, outcome.replies[-1].target)
        except (StoreError, ConnectorError) as error:
            log.error("a stream has lost its answer", bot=self.name, problem=error.problem)

    async def _deliver(self, stream: Stream, answer: Answer, target: Target) -> None:
        """Wait until WeCom has taken the answer; what it does not take goes to the response_url."""
        late = answer.alone
        if answer is stream.answer and await stream.taken(self._patience.gone):
            late = answer.pieces[1:]
        if late:
            stream.close()
            thumbs = self._feedback and answer.feedback and not stream.offered
            extras = {"feedback": {"id": str(stream.inbox_id)}} if thumbs else {}
            await self._post(target, late, extras)

    async def _post(self, target: Target, pieces: Sequence[str], extras: Mapping[str, Any]) -> None:
        """Use the response_url, which takes one message. Raises ConnectorError."""
        if not target.return_path:
            raise self._lost("expired", "WeCom asks no more, and the message came without a response_url")
        wait = self._wait(target.chat, target.delivery)
        if wait:
            raise ConnectorError("a chat is shown so many messages only", retry_after=wait)
        payload = {"msgtype": "markdown", "markdown": {"content": pieces[0], **extras}}
        try:
            await self._http.post("aibot/response", target.return_path, payload)
        except ApiError as error:
            passing = error.code in (None, _BUSY) or error.retry_after is not None
            if passing and not error.refused:
                self._report("retrying", error.summary)
                error.patience = URL_PATIENCE
                raise
            raise self._lost("expired", error.problem) from None
        self._report("ok")
        if len(pieces) > 1:
            self._lost("too_long", f"{len(pieces) - 1} more pieces than one message holds")

    def _wait(self, chat: str, delivery: str) -> float:
        """Count one more message to a chat; the seconds to wait if WeCom would drop it."""
        wait = self._pace.take(chat)
        if wait and self._held.note("chat", delivery):
            log.warning("WeCom would drop more", bot=self.name, reason="chat", wait=round(wait))
        return wait

    def _lost(self, reason: LostReason, problem: str) -> Undeliverable:
        self._metrics.lost.labels(self.name, reason).inc()
        log.warning("an answer is lost, or a part of it", bot=self.name, reason=reason, problem=problem)
        return Undeliverable(problem)

    def _report(self, state: Literal["ok", "retrying"], detail: str = "") -> None:
        if self.status.state != "stopped":
            self.status.state, self.status.detail = state, detail


def _welcome(answer: Answer) -> dict[str, Any]:
    """The reply to who enters a chat: the only one that is plain text."""
    return {"msgtype": "text", "text": {"content": answer.alone[0]}}


def _nothing(name: str) -> dict[str, Any]:
    return {"msgtype": "stream", "stream": {"id": name, "finish": True, "content": ""}}
