"""The pull of an account's messages: page by page, committed, and only then left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from bot.config_connectors import WecomKfSettings
from bot.connectors.base import Inlet, Status
from bot.connectors.fields import items, string
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.kf_desk import PEOPLE
from bot.connectors.wecom.kf_messages import KIND, SendFailed, StateChange, read, session
from bot.connectors.wecom.kf_states import States
from bot.connectors.wecom.kf_talks import Talks
from bot.errors import ConnectorError, Overloaded, StoreError
from bot.message import Message
from bot.metrics import Metrics
from bot.store.cursors import Cursors

log = structlog.get_logger(__name__)
PULL_EVERY = 300.0
"""Seconds after which is pulled though nobody called: a callback may have been lost."""
SINCE = "since"
"""The cursor that is the time before which nothing is answered."""
FIRST_LOOK = 300.0
"""Seconds before the very first start from which messages are still answered; the platform keeps 3 days."""
ANSWERABLE = 48 * 3600.0
TOKEN_VALID = 540.0  # 10 min, less what a slow page takes
MAX_WAIT = 60.0
LEAST_WAIT = 5.0
"""Seconds of a longer wait that no call cuts short."""
PAGE = 1000
PAGE_TIMEOUT = 30.0
BAD_TOKEN = 95007
EMPTY_PAGES = 10
"""Pages with nothing in them after which more is not believed in for a while."""


class Puller:
    """Fetches what happened in one account, from a persisted cursor, one page at a time.

    A page is committed before the cursor moves; what comes twice after a crash is known by its msgid.
    """

    def __init__(
        self,
        settings: WecomKfSettings,
        api: QyApi,
        cursors: Cursors,
        states: States,
        talks: Talks,
        status: Status,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._name = settings.name
        self._kf_id = settings.kf_id
        self._api = api
        self._cursors = cursors
        self._states = states
        self._talks = talks
        self._status = status
        self._metrics = metrics
        self._sleep = sleep
        self._woken = asyncio.Event()
        self._token, self._token_until = "", 0.0
        self._cursor: str | None = None
        self._since: float | None = None
        self._changed: dict[str, StateChange] = {}
        self._failures = 0

    def wake(self, token: str) -> None:
        """There is something to pull; `token` lifts the limit on calls for 10 minutes."""
        self._token, self._token_until = token, time.monotonic() + TOKEN_VALID
        self._woken.set()

    async def run(self, inlet: Inlet) -> None:
        """Pull now, at every wake and every PULL_EVERY seconds, until cancelled."""
        while True:
            self._woken.clear()
            try:
                done = await self._pull(inlet)
            except ConnectorError as error:
                shown = error.summary if isinstance(error, ApiError) else error.problem
                await self._pause(self._failed(error.problem, shown), error.retry_after)
            except StoreError as error:
                await self._pause(self._failed(f"the store: {error}"))
            except Exception as error:
                log.exception("pulling failed", bot=self._name)
                await self._pause(self._failed(type(error).__name__))
            else:
                await self._wait(PULL_EVERY if done else MAX_WAIT)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            log.debug("nobody called, pulling all the same", bot=self._name)

    async def _pause(self, seconds: float, retry_after: float | None = None) -> None:
        """Wait after a failure; a call shows that the platform is there again and ends a long wait."""
        if retry_after or seconds <= LEAST_WAIT:
            await self._sleep(max(seconds, retry_after or 0.0))
            return
        await self._sleep(LEAST_WAIT)
        ends = [self._woken.wait(), self._sleep(seconds - LEAST_WAIT)]
        tasks = [asyncio.ensure_future(end) for end in ends]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _pull(self, inlet: Inlet) -> bool:
        """Fetch and commit until there is no more; false if it leads nowhere, though there is said to be."""
        since = await self._open()
        seen, empty = {self._cursor or ""}, 0
        while True:
            page = await self._fetch()
            following = string(page.get("next_cursor")) or self._cursor or ""
            here = items(page.get("msg_list"))
            news = self._news(here, since)
            messages = self._messages(news)
            self._heard(messages)  # before the answers to them can be counted
            await self._take(messages, following, inlet)
            self._count_failed(news)
            self._cursor = following
            self._connected()
            if page.get("has_more") != 1:
                await self._caught_up()
                return True
            empty = 0 if here else empty + 1
            if following in seen or empty >= EMPTY_PAGES:
                log.warning("there is said to be more, but it does not come", bot=self._name)
                self._ask()
                return False
            seen.add(following)

    async def _open(self) -> float:
        """Look up where an earlier process left off; returns the time before which nothing is answered.

        There is one until the account's very first pull has come to its end: from then on its cursor tells
        what is new, whatever the clock said at the start.
        """
        if self._since is None:
            self._cursor = await self._cursors.get(KIND, self._kf_id)
            known = await self._cursors.get(KIND, self._kf_id, SINCE)
            if known is None:
                known = str(time.time() - FIRST_LOOK)
                await self._cursors.put(KIND, self._kf_id, known, SINCE)
            self._since = float(known)
        return self._since

    async def _caught_up(self) -> None:
        """Nothing more is left of what there was before the very first start."""
        self._ask()
        if self._since:
            await self._cursors.put(KIND, self._kf_id, "0", SINCE)
            self._since = 0.0

    def _ask(self) -> None:
        """Make sure of those whose conversation changed hands, now that the last change of each is known."""
        while self._changed:
            self._states.ask(self._changed.popitem()[1])

    async def _fetch(self) -> Mapping[str, Any]:
        payload: dict[str, Any] = {"open_kfid": self._kf_id, "limit": PAGE, "voice_format": 0}
        if self._cursor:
            payload["cursor"] = self._cursor
        token = self._token if time.monotonic() < self._token_until else ""
        if not token:
            return await self._api.post("kf/sync_msg", payload, timeout=PAGE_TIMEOUT)
        try:
            return await self._api.post("kf/sync_msg", {**payload, "token": token}, timeout=PAGE_TIMEOUT)
        except ApiError as error:
            if error.code != BAD_TOKEN:
                raise
        if token == self._token:
            self._token_until = 0.0
        return await self._api.post("kf/sync_msg", payload, timeout=PAGE_TIMEOUT)

    def _news(self, page: Sequence[Any], since: float) -> list[Message | StateChange | SendFailed]:
        """What a page says that is not too old to be answered; a change of hands never is, later on."""
        now = time.time()
        first = min(since, now)
        oldest = max(first, now - ANSWERABLE)
        news, old = [], 0
        for item in (read(item, self._name, self._kf_id) for item in page):
            if item is None:
                continue
            if not item.time or item.time >= (first if isinstance(item, StateChange) else oldest):
                news.append(item)
            elif isinstance(item, Message):
                old += 1
        if old:
            self._metrics.lost.labels(self._name, "old").inc(old)
            log.warning("messages are too old to be answered", bot=self._name, number=old)
        return news

    def _messages(self, news: Sequence[Message | StateChange | SendFailed]) -> list[Message]:
        """What the core is told, in order; a change of hands in its place among what the customer said."""
        messages = []
        for item in news:
            if isinstance(item, Message):
                messages.append(item)
            elif isinstance(item, StateChange):
                self._states.overtaken(item.customer)
                self._changed[item.customer] = item
                if item.state is not None:
                    self._talks.of(item.customer).human = item.state in PEOPLE
                    messages.append(session(self._name, item.customer, item.delivery, item.state, item.time))
        return messages

    async def _take(self, messages: Sequence[Message], following: str, inlet: Inlet) -> None:
        """Commit a page, however often that takes: the cursor does not move before."""
        while True:
            try:
                if messages:
                    await inlet.receive_many(messages)
                if following != (self._cursor or ""):
                    await self._cursors.put(KIND, self._kf_id, following)
            except Overloaded as error:
                await self._sleep(min(error.retry_after, 1.0))
            except StoreError as error:
                await self._sleep(self._failed(f"the store takes nothing: {error}"))
            else:
                return

    def _heard(self, messages: Sequence[Message]) -> None:
        for item in messages:
            if item.event in ("", "feedback"):
                self._talks.of(item.user.id).heard()

    def _count_failed(self, news: Sequence[Message | StateChange | SendFailed]) -> None:
        """Say which of our messages the platform took and then did not deliver."""
        for item in news:
            if isinstance(item, SendFailed):
                self._metrics.lost.labels(self._name, "send_fail").inc()
                log.warning(
                    "a message was not delivered", bot=self._name, msgid=item.msgid, reason=item.reason
                )

    def _connected(self) -> None:
        if self._status.state != "ok":
            log.info("connected to WeCom", kind=KIND, bot=self._name)
        self._status.state, self._status.detail = "ok", ""
        self._failures = 0

    def _failed(self, problem: str, shown: str = "") -> float:
        """Note a failure, and what the status may tell of it; returns the seconds until the next try."""
        if self._status.detail != (shown or problem):
            log.warning("cannot pull messages", kind=KIND, bot=self._name, problem=problem)
        self._status.state, self._status.detail = "retrying", shown or problem
        wait = min(2.0**self._failures, MAX_WAIT)
        self._failures = min(self._failures + 1, 10)
        return wait
