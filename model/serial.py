"""A model in this process as a `ChatModel` that answers one request at a time; others wait in a fair line."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean
from time import monotonic
from typing import Literal, Protocol, TypeAlias

import structlog
from prometheus_client import CollectorRegistry

from model.meters import RequestMeters
from model.types import Delta, GenerationParams, ModelBusy, ModelError, Turn

log = structlog.get_logger(__name__)
MOST_WAITING = 32
MOST_OF_ONE_USER = 2
LONGEST_WAIT = 120.0
"""Seconds; who would have to wait longer is told so at once."""
FIRST_GUESS = 5.0
"""Seconds that an answer takes, as long as none was given."""
SIGN_OF_LIFE = 5.0
"""Seconds after which an empty delta says that the request still waits or its prompt is still read."""
STOP_WITHIN = 30.0
_End: TypeAlias = Literal["answered", "failed", "cancelled"]
_REPORT = "ask again; if it fails again, restart the bot and report what its log says"


class Backend(Protocol):
    """A loaded model, used by one thread; `count_tokens` may be called by others at the same time."""

    @property
    def name(self) -> str: ...

    @property
    def max_context(self) -> int: ...

    @property
    def kernels(self) -> str: ...

    def count_tokens(self, text: str) -> int: ...

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        """The answer, token by token; its last delta has a `finish`. Raises ModelError.

        Closing the iterator gives the request up.
        """
        ...

    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Request:
    """One question on its way through the line; `news` is what its asker hears."""

    user: str
    query: str
    history: tuple[Turn, ...]
    params: GenerationParams
    loop: asyncio.AbstractEventLoop
    news: asyncio.Queue[Delta | ModelError]
    asked: float
    given_up: bool = False

    def tell(self, news: Delta | ModelError) -> None:
        """Pass something on to the asker's event loop, from the worker's thread."""
        try:
            self.loop.call_soon_threadsafe(self.news.put_nowait, news)
        except RuntimeError:  # the loop is closed
            self.given_up = True

    async def hear(self) -> Delta | ModelError:
        """What comes next; an empty delta where nothing does for a while."""
        try:
            async with asyncio.timeout(SIGN_OF_LIFE):
                return await self.news.get()
        except TimeoutError:
            return Delta("")


class SerialModel:
    """Answers one request at a time, users in turn; a request that fails leaves the others alone."""

    def __init__(
        self,
        backend: Backend,
        *,
        max_new_tokens: int = 512,
        prefixes: Collection[str] = (),
        of_user: int = MOST_OF_ONE_USER,
    ) -> None:
        """of_user: requests of a user that run or wait; more are refused."""
        self._backend = backend
        self._max_new_tokens = min(max_new_tokens, backend.max_context // 2)  # the rest is for the question
        self._prefixes = sorted(prefixes)
        self._of_user = of_user
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[_Request]] = {}  # the user whose turn it is comes first
        self._running: _Request | None = None
        self._began = 0.0
        self._durations: deque[float] = deque(maxlen=8)
        self._closing = False
        self._meters = RequestMeters()
        self._meters.waiting.set_function(lambda: self._counts()[0])
        self._meters.resident.set_function(lambda: self._counts()[1])
        self._worker = threading.Thread(target=self._work, name="model", daemon=True)
        self._worker.start()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._backend.name

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._backend.max_context

    @property
    def kernels(self) -> str:
        """See `model.types.InProcess.kernels`."""
        return self._backend.kernels

    @property
    def registry(self) -> CollectorRegistry:
        """What is counted."""
        return self._meters.registry

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has."""
        return self._backend.count_tokens(text)

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncGenerator[Delta]:
        """See `model.types.ChatModel.chat`; an empty delta now and then says that it is still at work."""
        request = self._enqueue(query, history, params, user)
        try:
            while True:
                news = await request.hear()
                if isinstance(news, ModelError):
                    raise news
                yield news
                if news.finish:
                    return
        finally:
            self._give_up(request)

    async def close(self) -> None:
        """Stop at the next token; who still waits gets a ModelError."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._worker.join, STOP_WITHIN)

    # -- the line, under its lock -----------------------------------------------------------

    def _enqueue(self, query: str, history: Sequence[Turn], params: GenerationParams, user: str) -> _Request:
        if params.prefix is not None and params.prefix not in self._prefixes:
            known = ", ".join(self._prefixes) or "none"
            raise ModelError(f"there is no prefix {params.prefix!r}", remedy=f"known are: {known}")
        params = replace(params, max_new_tokens=min(params.max_new_tokens, self._max_new_tokens))
        loop, news = asyncio.get_running_loop(), asyncio.Queue[Delta | ModelError]()
        request = _Request(user, query, tuple(history), params, loop, news, monotonic())
        with self._changed:
            if self._closing:
                raise _closed()
            self._refuse_if_busy(user)
            self._waiting.setdefault(user, deque()).append(request)
            self._changed.notify()
        return request

    def _refuse_if_busy(self, user: str) -> None:
        waiting = sum(map(len, self._waiting.values()))
        own = len(self._waiting.get(user, ()))
        usual, wait = fmean(self._durations or (FIRST_GUESS,)), 0.0
        if self._running is not None:
            own += self._running.user == user
            wait = max(usual - (monotonic() - self._began), usual / 4)
        wait += usual * waiting
        if own >= self._of_user or waiting >= MOST_WAITING or wait > LONGEST_WAIT:
            self._meters.requests.labels("refused").inc()
            raise ModelBusy(round(max(wait, 1.0), 1))

    def _give_up(self, request: _Request) -> None:
        """Nobody listens any more: leave the line, or stop at the next token."""
        with self._changed:
            request.given_up = True
            own = self._waiting.get(request.user, deque())
            if request in own:
                own.remove(request)
                self._meters.requests.labels("cancelled").inc()
                if not own:
                    del self._waiting[request.user]

    def _next(self) -> _Request | None:
        """Wait for the request whose turn it is; None once the model closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            user = next(iter(self._waiting))
            own = self._waiting.pop(user)
            self._running, self._began = own.popleft(), monotonic()
            if own:
                self._waiting[user] = own  # behind all others
            return self._running

    def _counts(self) -> tuple[int, int]:
        """How many wait, and how many are answered."""
        with self._changed:
            return sum(map(len, self._waiting.values())), int(self._running is not None)

    def _done(self, end: _End) -> None:
        """The device is free; only whole answers tell how long one takes."""
        with self._changed:
            self._running = None
            self._meters.requests.labels(end).inc()
            if end == "answered":
                self._durations.append(monotonic() - self._began)

    # -- the worker's thread ----------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (request := self._next()) is not None:
                self._done(self._answer(request))
        finally:
            with self._changed:
                for own in self._waiting.values():
                    for request in own:
                        request.tell(_closed())
                        self._meters.requests.labels("failed").inc()
                self._waiting.clear()
            self._backend.close()

    def _answer(self, request: _Request) -> _End:
        """Pass the answer on, and say how it ended; what goes wrong is this request's ModelError."""
        spoken = False
        try:
            deltas = self._backend.stream(request.query, request.history, request.params)
            with closing(_closable(deltas)) as source:
                for delta in source:
                    if self._closing:
                        raise _closed()
                    if request.given_up:
                        return "cancelled"
                    if delta.text and not spoken:
                        spoken = True
                        self._meters.first_token.observe(monotonic() - request.asked)
                    request.tell(delta)
                    if delta.finish:
                        return "answered"
            raise ModelError("the model broke off", remedy=_REPORT)
        except ModelError as error:
            request.tell(error)
        except Exception as error:  # its traceback would keep tensors alive: it goes to the log only
            log.exception("the model failed")
            request.tell(ModelError(f"the model failed: {type(error).__name__}: {error}", remedy=_REPORT))
        return "failed"


def _closable(deltas: Iterator[Delta]) -> Generator[Delta]:
    """Any iterator as a generator, which can be closed."""
    yield from deltas


def _closed() -> ModelError:
    return ModelError("the model is being closed", remedy="ask again once the bot has restarted")
