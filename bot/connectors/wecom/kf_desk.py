"""The human side of an account: whose a conversation is, and how it changes hands."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from bot.connectors.fields import integer, string
from bot.connectors.wecom.api import ApiError, QyApi
from bot.connectors.wecom.client import REFUSED_PATIENCE
from bot.connectors.wecom.kf_messages import HOLDERS
from bot.connectors.wecom.kf_talks import Talks
from bot.errors import ConnectorError, Undeliverable
from bot.reply import Target

log = structlog.get_logger(__name__)
BOT, WAITING, HUMAN, ENDED = 1, 2, 3, 4
PEOPLE = frozenset({WAITING, HUMAN})
NO_TRANSITION = 95016
BUSY = -1


def refused(error: ApiError) -> bool:
    """Whether the platform said no, rather than "later" or nothing at all."""
    return error.code not in (None, BUSY) and error.retry_after is None


class Desk:
    """Asks for and changes the state of an account's conversations (kf/service_state).

    States: 0 new, 1 with the bot, 2 in the waiting pool, 3 with a member, 4 ended. `servicers` are tried in
    turn; where there are none, or none is on duty, a conversation goes to the waiting pool.
    """

    def __init__(self, api: QyApi, kf_id: str, servicers: Sequence[str], talks: Talks) -> None:
        self._api = api
        self._kf_id = kf_id
        self._servicers = tuple(servicers)
        self._talks = talks
        self._handed_over = 0

    async def state(self, customer: str) -> int:
        """The state of a conversation, as the platform has it now. Raises ConnectorError."""
        place = {"open_kfid": self._kf_id, "external_userid": customer}
        state = integer((await self._api.post("kf/service_state/get", place)).get("service_state"))
        if state is None or state not in HOLDERS:
            problem = "kf/service_state/get: no service_state that is known"
            raise ConnectorError(problem, patience=REFUSED_PATIENCE)
        self._talks.of(customer).human = state in PEOPLE
        return state

    async def is_human(self, customer: str) -> bool:
        """Whether a member has a conversation now, or it waits for one. Raises ConnectorError."""
        return await self.state(customer) in PEOPLE

    async def hand_over(self, target: Target) -> None:
        """Give a conversation to a human; see `HumanDesk.hand_over`."""
        if await self.is_human(target.chat):
            return
        try:
            await self._pass_on(target)
        except ApiError as error:
            # Somebody else may have moved it between the two calls.
            if error.code != NO_TRANSITION or not await self.is_human(target.chat):
                raise

    async def take_back(self, target: Target) -> None:
        """Take a conversation from the pool back to the bot, or end it; see `HumanDesk.take_back`.

        What a member had can only be ended: the customer's next message begins a new one, which is the bot's.
        Raises Undeliverable for what the platform refuses for good.
        """
        try:
            await self._take_back(target)
        except ApiError as error:
            if not error.permanent:
                raise
            raise Undeliverable(error.problem, code=error.code) from None

    async def _take_back(self, target: Target) -> None:
        state = await self.state(target.chat)
        if state == WAITING:
            try:
                await self._move(target, BOT)
            except ApiError as error:
                if error.code != NO_TRANSITION:
                    raise
                await self._move(target, ENDED)
        elif state == HUMAN:
            await self._move(target, ENDED)

    async def _pass_on(self, target: Target) -> None:
        first = self._handed_over % max(1, len(self._servicers))
        self._handed_over += 1
        for servicer in (*self._servicers[first:], *self._servicers[:first]):
            try:
                await self._move(target, HUMAN, servicer_userid=servicer)
            except ApiError as error:
                if not refused(error):
                    raise
                log.info("a member does not take over", servicer=servicer, problem=error.problem)
            else:
                return
        await self._move(target, WAITING)

    async def _move(self, target: Target, state: int, **more: str) -> None:
        place = {"open_kfid": self._kf_id, "external_userid": target.chat}
        answer = await self._api.post("kf/service_state/trans", {**place, "service_state": state, **more})
        talk = self._talks.of(target.chat)
        talk.human = state in PEOPLE
        code = string(answer.get("msg_code"))
        if code:
            talk.grant(code, target)
