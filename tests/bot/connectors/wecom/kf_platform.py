"""A customer service account on the platform, the core that it speaks to, and what stands between them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from bot.catalogue import Catalogue
from bot.config_connectors import WecomKfSettings
from bot.connectors.base import Outcome, Receipt
from bot.connectors.wecom.api import Http, QyApi
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.kf import Kf
from bot.connectors.wecom.kf_messages import KIND
from bot.connectors.wecom.token import AccessToken
from bot.message import Message
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from bot.store import Store
from bot.store.cursors import CursorRow, Cursors
from bot.store.history import Round
from tests.bot.connectors.wecom.qyapi import CORP, KF, SECRET, WAIT, Call, FakeQyApi, Refusal

CUSTOMER = "wmCustomer"
UNLISTED = 95099
"""An errcode that no page lists."""
_numbers = itertools.count(1)


def said(
    text: str = "hello", /, customer: str = CUSTOMER, *, ago: float = 0.0, **more: Any
) -> dict[str, Any]:
    """An item of sync_msg: by default a text that a customer sent just now."""
    return {
        "msgid": f"msg{next(_numbers)}",
        "open_kfid": KF,
        "external_userid": customer,
        "send_time": int(time.time() - ago),
        "origin": 3,
        "msgtype": "text",
        "text": {"content": text},
        **more,
    }


def event(kind: str, customer: str = CUSTOMER, *, ago: float = 0.0, **fields: Any) -> dict[str, Any]:
    """An item of sync_msg that tells what happened."""
    told = {"event_type": kind, "open_kfid": KF, "external_userid": customer, **fields}
    return said(customer=customer, ago=ago, origin=4, msgtype="event", event=told)


class FakeKf(FakeQyApi):
    """Knows its events' tokens, takes each msgid once, counts to five, gives codes, sends people home.

    With `strict` a msgid that was used is refused, as the documentation says, instead of taken as done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.event_tokens: set[str] = set()
        self.delivered: dict[str, dict[str, Any]] = {}
        self.counted: dict[str, int] = {}
        self.codes: dict[str, bool] = {}
        self.off_duty: set[str] = set()
        self.strict = False

    def say(self, *items: dict[str, Any]) -> None:
        """Customers write, things happen: to be pulled."""
        self.kf_messages += items
        for item in items:
            if item["origin"] == 3:
                self.counted[item["external_userid"]] = 0

    def _kf_sync_msg(self, call: Call) -> dict[str, Any]:
        token = call.payload.get("token")
        if token is not None and token not in self.event_tokens:
            raise Refusal(95007, "invalid msg token")
        return super()._kf_sync_msg(call)

    def _kf_send_msg(self, call: Call) -> dict[str, Any]:
        answer = super()._kf_send_msg(call)
        if answer["msgid"] not in self.delivered:
            customer = call.payload["touser"]
            if self.counted.get(customer, 0) >= 5:
                raise Refusal(95001, "too many messages")
            self.counted[customer] = self.counted.get(customer, 0) + 1
            self.delivered[answer["msgid"]] = call.payload
        elif self.strict:
            raise Refusal(UNLISTED, "msgid is not unique")
        return answer

    def _kf_send_msg_on_event(self, call: Call) -> dict[str, Any]:
        if self.codes.get(call.payload["code"], True):
            raise Refusal(95017, "invalid code, or used")
        self.codes[call.payload["code"]] = True
        return {"msgid": call.payload["msgid"]}

    def _kf_service_state_trans(self, call: Call) -> dict[str, Any]:
        if call.payload.get("servicer_userid") in self.off_duty:
            raise Refusal(95016, "the servicer is not on duty")
        answer = super()._kf_service_state_trans(call)
        self.codes[answer["msg_code"]] = False
        return answer


@dataclass
class FakeInlet:
    """The core: takes what comes (once per delivery), or refuses with the next of `refusals`."""

    messages: list[Message] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, message: Message) -> Receipt:
        return (await self.receive_many([message]))[0]

    async def receive_many(self, messages: Sequence[Message]) -> list[Receipt]:
        if self.refusals:
            raise self.refusals.pop(0)
        receipts = []
        async with self.changed:
            for message in messages:
                duplicate = any(message.delivery == known.delivery for known in self.messages[-100:])
                self.messages += [] if duplicate else [message]
                receipts.append(Receipt(len(self.messages), duplicate))
            self.changed.notify_all()
        return receipts

    async def outcome(self, inbox_id: int, *, wait: float = 0.0) -> Outcome:
        return Outcome(inbox_id, done=True)

    async def find(self, connector: str, bot: str, delivery: str) -> int | None:
        return None

    async def talk(self, message: Message, limit: int) -> list[Round]:
        return []

    async def sent(self, connector: str, bot: str, user: str, *, after: int, limit: int) -> list[Outgoing]:
        return []

    async def chat_moved(self, connector: str, bot: str, old: str, new: str) -> None:
        raise AssertionError("customers' chats do not move")

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages if not message.event]

    async def until(self, look: Callable[[], Any]) -> None:
        """Wait for messages until `look` is true."""
        async with asyncio.timeout(WAIT), self.changed:
            await self.changed.wait_for(look)

    async def got(self, count: int) -> list[Message]:
        """The messages, once there are that many."""
        await self.until(lambda: len(self.messages) >= count)
        return self.messages


class Stage:
    """One account on a fake platform, one core, one database; connectors between them come and go."""

    def __init__(self, platform: FakeKf, base: str, store: Store) -> None:
        self.platform = platform
        self.base = base
        self.store = store
        self.cursors = Cursors(store)
        self.inlet = FakeInlet()
        self.metrics = Metrics()
        self.opened: list[Kf] = []

    def api(self) -> QyApi:
        http = Http()
        return QyApi(http, self.base, AccessToken(http, self.base, CORP, SecretStr(SECRET)))

    def settings(self, **given: Any) -> WecomKfSettings:
        whole = {"name": "care", "kf_id": KF, "app": "desk", "corp_id": CORP, "secret": SECRET, **given}
        return WecomKfSettings.model_validate({**whole, "api_base": self.base})

    def build(self, *, language: Any = "auto", callback: Callback | None = None, **given: Any) -> Kf:
        """A connector that is not started."""
        kf = Kf(
            self.settings(**given),
            api=self.api(),
            cursors=self.cursors,
            callback=callback,
            catalogue=Catalogue.load(),
            language=language,
            metrics=self.metrics,
        )
        self.opened.append(kf)
        return kf

    async def connect(self, **given: Any) -> Kf:
        """A started connector, which has pulled once."""
        kf = self.build(**given)
        pulls = len(self.platform.of("kf/sync_msg"))
        await kf.start(self.inlet)
        await self.platform.called("kf/sync_msg", pulls + 1)
        return kf

    def wake(self, kf: Kf) -> None:
        """Let the platform say that there is something to pull."""
        token = f"event{next(_numbers)}"
        self.platform.event_tokens.add(token)
        kf.wake(token)

    def lost(self, reason: str) -> float:
        """How many sends nobody was shown, for a reason."""
        return (
            self.metrics.registry.get_sample_value(
                "glmbot_sends_lost_total", {"connector": "care", "reason": reason}
            )
            or 0.0
        )

    async def close(self) -> None:
        for kf in self.opened:
            await kf.stop()
            await kf.close()


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """A stage, cleared in the end."""
    store = Store("sqlite+aiosqlite:///:memory:")
    async with store.engine.begin() as connection:
        await connection.run_sync(CursorRow.__table__.create)  # the whole schema would take ten times as long
    store.start()
    platform = FakeKf()
    async with TestServer(platform.app(), host="127.0.0.1") as server:
        stage = Stage(platform, str(server.make_url("")).rstrip("/"), store)
        yield stage
        await stage.close()
    await store.close()


def part(text: str = "Answer", *, key: str = "key", **given: Any) -> Outgoing:
    """A part of an answer; keywords of the target and of the part may be mixed."""
    names = Target.__dataclass_fields__
    place = {name: given.pop(name) for name in list(given) if name in names}
    return Outgoing(Target(KIND, "care", CUSTOMER, **place), text, key, **given)
