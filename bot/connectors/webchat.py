"""The web chat page: anonymous visitors, each with a talk of their own, answers streamed by SSE."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from aiohttp import web

from bot.catalogue import Catalogue, Language
from bot.config_connectors import WebchatSettings
from bot.config_values import Rate
from bot.connectors.base import Capabilities, Inlet, Receipt, Status
from bot.connectors.http import Refused, json_object, json_response, read_body
from bot.errors import Overloaded, StoreError
from bot.limits import RateLimiter
from bot.message import Chat, Message, User
from bot.reply import Outgoing, Target
from bot.store.history import Round
from bot.web.event_stream import EventStream, reply_fields
from bot.web.page import Page
from bot.web.visitors import Visitors

log = structlog.get_logger(__name__)
MAX_QUESTION = 4000
MAX_REPLY = 20_000
MAX_REQUEST = 32 * 1024
PER_VISITOR = Rate(30, 60.0)
STREAMS_PER_VISITOR = 5
STREAMS = 2000
WAITING = 2000
ROUNDS = 50
RESUMED = 200
LANGUAGE_COOKIE = "glmbot_language"
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question whose answer is not out yet, for a page that is loaded meanwhile."""

    inbox_id: int
    text: str


class Webchat:
    """The page at / and what it calls below /webchat/NAME."""

    kind = "webchat"

    def __init__(
        self, settings: WebchatSettings, *, catalogue: Catalogue, secret: bytes, max_body: int
    ) -> None:
        self.name = settings.name
        self.status = Status()
        self.capabilities = Capabilities(max_text=MAX_REPLY, pull=True, streaming=True, shows_sources=True)
        self._base = f"/webchat/{self.name}"
        self._max_body = min(max_body, MAX_REQUEST)
        self._page = Page(self._base, catalogue, max_text=MAX_QUESTION)
        self._visitors = Visitors(secret, self.name)
        self._limiter = RateLimiter(PER_VISITOR)
        self._streams: defaultdict[str, list[EventStream]] = defaultdict(list)
        self._open_streams = 0
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()
        self._inlet: Inlet | None = None

    def routes(self) -> list[web.AbstractRouteDef]:
        """The page, its files, and what it calls."""
        return [
            web.get("/", self._show),
            web.get(self._base + "/static/{file}", self._file),
            web.get(self._base + "/talk", self._talk, allow_head=False),
            web.get(self._base + "/events", self._events, allow_head=False),
            web.post(self._base + "/messages", self._ask),
            web.post(self._base + "/feedback", self._vote),
        ]

    async def start(self, inlet: Inlet) -> None:
        """Begin to take questions."""
        self._inlet = inlet
        self.status.state = "ok"

    async def stop(self) -> None:
        """Take no more questions; answers still go out to the open pages."""
        self._inlet = None
        self.status.state = "stopped"

    async def close(self) -> None:
        """End the streams; the pages come back when the bot does."""
        for streams in self._streams.values():
            for stream in streams:
                stream.close()

    # -- for the core -----------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> str | None:
        """Tell the visitor's open pages; the part is committed, so others fetch it later."""
        visitor = outgoing.target.user
        if outgoing.final:
            self._asked.pop((visitor, outgoing.target.message_id), None)
        for stream in self._streams.get(visitor, ()):
            stream.reply(outgoing)
        return None

    async def typing(self, target: Target) -> None:
        """The page shows by itself that it waits."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """Let the visitor's open pages see the text so far."""
        for stream in self._streams.get(target.user, ()):
            stream.grow(target.message_id, text)
        return None

    # -- the page ---------------------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.Response:
        response = self._page.html(_language(request))
        self._visitors.welcome(request, response)
        return response

    async def _file(self, request: web.Request) -> web.Response:
        return self._page.file(request.match_info["file"])

    async def _talk(self, request: web.Request) -> web.Response:
        """The visitor's rounds, the questions that still wait, and the id from which events go on."""
        inlet = self._running()
        visitor = self._visitors.known(request)
        talk: dict[str, Any] = {"rounds": [], "waiting": [], "last": 0}
        if visitor is not None:
            try:
                talk = await self._collect(inlet, visitor)
            except StoreError:
                raise Refused(503, "the store does not answer", retry_after=5) from None
        response = json_response(talk)
        self._visitors.welcome(request, response)
        return response

    async def _collect(self, inlet: Inlet, visitor: str) -> dict[str, Any]:
        # The parts are read first: one that is committed in between is in the rounds, and comes as an
        # event too, which the page ignores.
        parts = await inlet.sent(self.kind, self.name, visitor, after=0, limit=RESUMED)
        rounds = await inlet.talk(self._message(visitor, "", ""), ROUNDS)
        waiting = []
        for (owner, message_id), asked in list(self._asked.items()):
            if owner != visitor:
                continue
            if (await inlet.outcome(asked.inbox_id)).done:
                self._asked.pop((owner, message_id), None)
                continue
            said = [reply_fields(part) for part in parts if part.target.message_id == message_id]
            waiting.append({"id": message_id, "text": asked.text, "said": said})
        last_parts = {part.inbox_id: part for part in parts}
        return {
            "rounds": [_round_fields(item, last_parts.get(item.inbox_id)) for item in rounds],
            "waiting": waiting,
            "last": parts[-1].id if parts else 0,
        }

    # -- what the page sends ----------------------------------------------------------------

    async def _ask(self, request: web.Request) -> web.Response:
        visitor, fields = await self._own_request(request)
        text, message_id = fields.get("text"), fields.get("id")
        if not isinstance(text, str) or not text.strip():
            raise Refused(400, "text must be a string that is not blank", field="text")
        if len(text) > MAX_QUESTION:
            raise Refused(413, f"text may have {MAX_QUESTION} characters at most", field="text")
        if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
            raise Refused(400, "id must be 8 to 64 letters, digits, - or _", field="id")
        language = fields.get("language")
        message = self._message(
            visitor, text, message_id, language=language if language in ("zh", "en") else None
        )
        receipt = await self._receive(message)
        if not receipt.duplicate:
            self._remember(visitor, message_id, _Asked(receipt.inbox_id, text))
        return json_response({"id": message_id, "round": receipt.inbox_id}, status=202)

    async def _vote(self, request: web.Request) -> web.Response:
        visitor, fields = await self._own_request(request)
        number, vote = fields.get("round"), fields.get("vote")
        if type(number) is not int or not 0 < number < 2**63:
            raise Refused(400, "round must be the number of an answer", field="round")
        if type(vote) is not int or vote not in (1, -1):
            raise Refused(400, "vote must be 1 or -1", field="vote")
        await self._receive(
            self._message(
                visitor, "", f"vote-{number}", event="feedback", data={"vote": vote, "inbox_id": number}
            )
        )
        return json_response({"round": number, "vote": vote}, status=202)

    async def _own_request(self, request: web.Request) -> tuple[str, dict[str, Any]]:
        """(visitor, JSON fields) of a request that our page made for a visitor we know."""
        if not _from_our_page(request):
            raise Refused(403, "requests from other sites are not taken")
        if request.content_type != "application/json":
            raise Refused(415, "the content type must be application/json")
        visitor = self._known(request)
        fields = json_object(await read_body(request, self._max_body))
        wait = self._limiter.take(visitor)
        if wait:
            raise Refused(429, "too many messages", retry_after=wait)
        return visitor, fields

    async def _receive(self, message: Message) -> Receipt:
        try:
            return await self._running().receive(message)
        except Overloaded as error:
            raise Refused(503, "too many messages are waiting", retry_after=error.retry_after) from None
        except StoreError:
            raise Refused(503, "the message could not be stored", retry_after=5) from None

    def _remember(self, visitor: str, message_id: str, asked: _Asked) -> None:
        self._asked[visitor, message_id] = asked
        if len(self._asked) > WAITING:
            self._asked.popitem(last=False)
        for stream in self._streams.get(visitor, ()):
            stream.question(message_id, asked.text)

    def _message(
        self,
        visitor: str,
        text: str,
        message_id: str,
        *,
        language: str | None = None,
        event: str = "",
        data: dict[str, Any] | None = None,
    ) -> Message:
        unique = uuid4().hex if event else message_id
        return Message(
            connector=self.kind,
            bot=self.name,
            delivery=f"{visitor}:{unique}",
            chat=Chat(visitor),
            user=User(visitor, language=language),
            text=text,
            id=message_id,
            mentioned=True,
            event=event,
            data=data or {},
        )

    # -- events -----------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: what was missed since Last-Event-ID (or ?after=), then what comes."""
        inlet, visitor = self._running(), self._known(request)
        after = max(_number(request.headers.get("Last-Event-ID")), _number(request.query.get("after")))
        stream = self._join(visitor, request)
        try:
            try:
                missed = await inlet.sent(self.kind, self.name, visitor, after=after, limit=RESUMED)
            except StoreError:
                raise Refused(503, "the store does not answer", retry_after=5) from None
            stream.catch_up(missed, complete=len(missed) < RESUMED)
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-store, no-transform",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            await stream.run(response)
        except ConnectionError:
            log.debug("a page went away")
        finally:
            self._leave(visitor, stream)
        return response

    def _join(self, visitor: str, request: web.Request) -> EventStream:
        own = self._streams.get(visitor, ())
        for left in own:
            if left.is_gone():
                left.close()
        if self._open_streams >= STREAMS:
            raise Refused(503, "too many pages are open", retry_after=30)
        if sum(not stream.is_gone() for stream in own) >= STREAMS_PER_VISITOR:
            raise Refused(429, "too many pages of one visitor are open", retry_after=30)
        stream = EventStream(lambda: request.transport is None)
        self._streams[visitor].append(stream)
        self._open_streams += 1
        return stream

    def _leave(self, visitor: str, stream: EventStream) -> None:
        self._open_streams -= 1
        self._streams[visitor].remove(stream)
        if not self._streams[visitor]:
            del self._streams[visitor]

    # -- who and whether --------------------------------------------------------------------

    def _running(self) -> Inlet:
        if self._inlet is None:
            raise Refused(503, "the bot is starting or stopping", retry_after=5)
        return self._inlet

    def _known(self, request: web.Request) -> str:
        visitor = self._visitors.known(request)
        if visitor is None:
            raise Refused(401, "no visitor's cookie")
        return visitor


def _round_fields(item: Round, part: Outgoing | None) -> dict[str, Any]:
    """A finished round as the page gets it; what only its last part knows is absent once that has expired."""
    return {
        "id": part.target.message_id if part else "",
        "round": item.inbox_id,
        "question": item.question,
        "answer": item.answer,
        "sources": item.sources,
        "vote": item.vote,
        "choices": part.choices if part else (),
        "feedback": part.feedback if part else item.vote is not None,
        "markdown": part.markdown if part else False,
    }


def _from_our_page(request: web.Request) -> bool:
    """Whether the browser says that our own page made the request; what is no browser says nothing."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:  # an address with half a bracket
        return False


def _language(request: web.Request) -> Language:
    """?lang=, else what the visitor chose before, else what the browser prefers."""
    for chosen in (request.query.get("lang"), request.cookies.get(LANGUAGE_COOKIE)):
        if chosen:
            return "zh" if chosen.lower().startswith("zh") else "en"
    best: Language = "zh"
    best_weight = 0.0
    for entry in request.headers.get("Accept-Language", "").split(","):
        tag, _, parameter = entry.strip().partition(";")
        weight = _weight(parameter)
        if tag[:2].lower() in ("zh", "en") and weight > best_weight:
            best, best_weight = "zh" if tag[:2].lower() == "zh" else "en", weight
    return best


def _weight(parameter: str) -> float:
    """The q of one entry of Accept-Language, 1 where there is none."""
    found = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", parameter)
    return float(found[1]) if found else 1.0 if not parameter else 0.0


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else 0
