"""The connectors as plugins see them: send to any chat, fetch media, hand a talk to a platform's desk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

from bot.catalogue import Catalogue, language_of
from bot.compose import compose, target_of, with_sources
from bot.connectors.base import Connector, HumanDesk, MediaSource
from bot.errors import ConnectorError, Undeliverable
from bot.message import Message, Segment
from bot.outbox import Outbox, numbered
from bot.reply import Reply, Target
from bot.store.engine import Store
from bot.store.outbox import PENDING, SENT, OutboxTable

MAX_MEDIUM = 20 << 20


class Channels:
    """All connectors of one bot. `staff` are the chats where agents work, as `connector:chat_id`."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        catalogue: Catalogue,
        connectors: Mapping[tuple[str, str], Connector],
        staff: Sequence[str],
    ) -> None:
        self.staff = tuple(staff)
        self._store = store
        self._outbox = outbox
        self._catalogue = catalogue
        self._connectors = connectors

    async def send(self, chat: str, reply: Reply | str, *, key: str) -> bool:
        """Send to a chat (`connector:chat_id`) without being asked; durable once this returns.

        `key` names this very message: said again with the same key, nothing is sent and False returned.
        Raises Undeliverable where no connector has that name or it can only answer, and StoreError.
        """
        name, _, chat_id = chat.partition(":")
        connector = next((item for item in self._connectors.values() if item.name == name), None)
        if connector is None:
            raise Undeliverable(f"no connector is named {name!r}")
        if not connector.capabilities.speaks_first:
            raise Undeliverable(f"{name!r} can only answer")
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        able = connector.capabilities
        text = partial(self._text, language_of(reply.text))
        target = Target(connector.kind, connector.name, chat_id, user=chat_id)
        digest = hashlib.blake2b(f"{chat}\0{key}".encode("utf-8", "replace"), digest_size=24).hexdigest()
        parts = compose(with_sources(reply, able, text), able, target, None, digest)
        returned = await self._store.write(OutboxTable.add(parts, state=SENT if able.pull else PENDING))
        new = numbered(parts, OutboxTable.added(returned))
        if not able.pull:
            self._outbox.submit(new)
        for part in new if able.pull else ():
            await connector.send(part)
        return bool(new)

    def has_desk(self, message: Message) -> bool:
        """Whether the platform of a message has a desk of its own where people take over."""
        return isinstance(self._connector(message), HumanDesk)

    async def hand_over(self, message: Message) -> None:
        """Move the talk of a message to the platform's desk. Raises ConnectorError."""
        await self._desk(message.connector, message.bot).hand_over(target_of(message))

    async def take_back(self, connector: str, bot: str, chat: str) -> None:
        """Move a talk back from the platform's desk, as far as it lets. Raises ConnectorError."""
        await self._desk(connector, bot).take_back(Target(connector, bot, chat))

    async def with_people(self, connector: str, bot: str, chat: str) -> bool:
        """Whether people have a talk at the platform's desk, or it waits for them. Raises ConnectorError."""
        return await self._desk(connector, bot).with_people(Target(connector, bot, chat))

    async def fetch(self, message: Message, segment: Segment, *, limit: int = MAX_MEDIUM) -> bytes:
        """The bytes of a medium in a message. Raises ConnectorError, also over `limit` bytes."""
        connector = self._connector(message)
        if not isinstance(connector, MediaSource):
            raise ConnectorError(f"{message.connector} gives no media")
        return await connector.fetch(segment, limit)

    def _desk(self, connector: str, bot: str) -> HumanDesk:
        """The desk of a bot's platform. Raises Undeliverable: there is none, however often one asks."""
        desk = self._connectors.get((connector, bot))
        if not isinstance(desk, HumanDesk):
            raise Undeliverable(f"{connector}/{bot} has no desk of its own")
        return desk

    def _connector(self, message: Message) -> Connector | None:
        return self._connectors.get((message.connector, message.bot))

    def _text(self, language: str, key: str, **fields: object) -> str:
        return self._catalogue.text(key, language, **fields)
