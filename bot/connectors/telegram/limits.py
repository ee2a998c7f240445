"""How fast one bot may talk: Telegram's limits per bot and per chat, and the waits it asked for."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

PER_SECOND = 30
GROUP_PER_MINUTE = 20
GROUP_RESERVE = 6
"""Of a group's messages per minute, how many are kept for answers: a growing text may not take them."""
SHOW_EVERY = 1.2
SHOW_EVERY_IN_GROUPS = 3.0


@dataclass(slots=True)
class _Chat:
    """One chat's traffic: when it may be written to again, what it was shown last, when it got messages."""

    held_until: float = 0.0
    shown: str = ""
    shown_at: float = float("-inf")
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=GROUP_PER_MINUTE))


class Pace:
    """Paces one bot: answers wait for their turn, a growing text is shown only while there is room.

    Source: core.telegram.org/bots/faq (about 30 messages/s in all, 20/min in a group). A chat's own limit
    is left to Telegram's 429, since it lets short bursts pass. Memory is bounded: the chats unseen for
    longest are forgotten.
    """

    def __init__(
        self,
        *,
        per_second: int = PER_SECOND,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._capacity = capacity
        self._turns: deque[float] = deque(maxlen=per_second)
        self._chats: OrderedDict[str, _Chat] = OrderedDict()

    async def turn(self, chat: str) -> None:
        """Wait, first come first served, until one more message fits the last second."""
        delay = self._take(chat)
        if delay > 0:
            await asyncio.sleep(delay)

    def hold(self, chat: str, seconds: float) -> None:
        """Leave a chat alone for a while: Telegram said so."""
        state = self._chat(chat)
        state.held_until = max(state.held_until, self._clock() + seconds)

    def held(self, chat: str) -> float:
        """Seconds for which a chat has still to be left alone."""
        state = self._chats.get(chat)
        return max(0.0, state.held_until - self._clock()) if state else 0.0

    def may_show(self, chat: str, text: str, *, group: bool) -> bool:
        """Whether a growing text may be shown now; if so it is counted."""
        state, now = self._chat(chat), self._clock()
        every = SHOW_EVERY_IN_GROUPS if group else SHOW_EVERY
        if now < state.held_until or now - state.shown_at < every or text == state.shown:
            return False
        if len(self._turns) == self._turns.maxlen and now - self._turns[0] < 1:
            return False
        if group and sum(now - at < 60 for at in state.recent) >= GROUP_PER_MINUTE - GROUP_RESERVE:
            return False
        state.shown, state.shown_at = text, now
        self._take(chat)
        return True

    def _take(self, chat: str) -> float:
        """Book the next free place among the last second's messages; returns the seconds until then."""
        now = self._clock()
        full = len(self._turns) == self._turns.maxlen
        at = max(now, self._turns[0] + 1.0) if full else now
        self._turns.append(at)
        self._chat(chat).recent.append(at)
        return at - now

    def _chat(self, chat: str) -> _Chat:
        state = self._chats.setdefault(chat, _Chat())
        self._chats.move_to_end(chat)
        while len(self._chats) > self._capacity:
            self._chats.popitem(last=False)
        return state
