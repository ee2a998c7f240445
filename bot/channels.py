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
    """All connectors of one bot. A chat is named `connector:chat_id`; `staff` are those where agents work."""

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

    async def send(self, chat: str, reply: Reply | str, *, key: str, thread: str | None = None) -> bool:
        """Send to a chat, or to a topic (`thread`) in it, without being asked; durable once this returns.

        `key` names this very message: said again with the same key, nothing is sent and False returned.
        Raises Undeliverable where no connector has that name or it can only answer, and StoreError.
        """
        connector, chat_id = self._find(chat)
        if not connector.capabilities.speaks_first:
            raise Undeliverable(f"{connector.name!r} can only answer")
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        able = connector.capabilities
        text = partial(self._text, language_of(reply.text))
        target = Target(connector.kind, connector.name, chat_id, thread=thread, user=chat_id)
        parts = compose(with_sources(reply, able, text), able, target, None, _digest(chat, key))
        returned = await self._store.write(
            await OutboxTable.adding(parts, state=SENT if able.pull else PENDING)
        )
        new = numbered(parts, OutboxTable.added(returned))
        if not able.pull:
            self._outbox.submit(new)
        for part in new if able.pull else ():
            await connector.send(part)
        return bool(new)

    def takes(self, chat: str, kind: str) -> bool:
        """Whether a chat's platform takes attachments of a kind. Raises Undeliverable."""
        return kind in self._find(chat)[0].capabilities.attachments

    async def failed(self, chat: str, *, key: str) -> bool:
        """Whether what was sent to a chat with this key failed for good. Raises StoreError."""
        return await OutboxTable(self._store).failed(f"{_digest(chat, key)}-0")

    def platform(self, name: str) -> str | None:
        """The platform (`telegram`, ...) of the connector of that name, None where there is none."""
        return next((item.kind for item in self._connectors.values() if item.name == name), None)

    def has_desk(self, message: Message) -> bool:
        """Whether the platform of a message has a desk of its own where people take over."""
        return isinstance(self._connector(message), HumanDesk)

    async def hand_over(self, message: Message) -> None:
        """Move the talk of a message to the platform's desk. Raises ConnectorError."""
        await _desk(self._connector(message), message.bot).hand_over(target_of(message))

    async def take_back(self, chat: str) -> None:
        """Move a talk back from the platform's desk, as far as it lets.

        Raises ConnectorError; Undeliverable where it never will.
        """
        connector, chat_id = self._find(chat)
        await _desk(connector, connector.name).take_back(Target(connector.kind, connector.name, chat_id))

    async def with_people(self, chat: str) -> bool:
        """Whether people have a talk at the platform's desk, or it waits for them. Raises ConnectorError."""
        connector, chat_id = self._find(chat)
        desk = _desk(connector, connector.name)
        return await desk.with_people(Target(connector.kind, connector.name, chat_id))

    async def fetch(self, message: Message, segment: Segment, *, limit: int = MAX_MEDIUM) -> bytes:
        """The bytes of a medium in a message. Raises ConnectorError, also over `limit` bytes."""
        connector = self._connector(message)
        if not isinstance(connector, MediaSource):
            raise ConnectorError(f"{message.connector} gives no media")
        return await connector.fetch(segment, limit)

    def _find(self, chat: str) -> tuple[Connector, str]:
        """The connector of a chat, and the chat's id there. Raises Undeliverable."""
        name, _, chat_id = chat.partition(":")
        connector = next((item for item in self._connectors.values() if item.name == name), None)
        if connector is None:
            raise Undeliverable(f"no connector is named {name!r}")
        return connector, chat_id

    def _connector(self, message: Message) -> Connector | None:
        return self._connectors.get((message.connector, message.bot))

    def _text(self, language: str, key: str, **fields: object) -> str:
        return self._catalogue.text(key, language, **fields)


def _digest(chat: str, key: str) -> str:
    """What the keys of the parts begin with."""
    return hashlib.blake2b(f"{chat}\0{key}".encode("utf-8", "replace"), digest_size=24).hexdigest()


def _desk(connector: Connector | None, name: str) -> HumanDesk:
    """The desk of a platform. Raises Undeliverable: there is none, however often one asks."""
    if not isinstance(connector, HumanDesk):
        raise Undeliverable(f"{name!r} has no desk of its own")
    return connector
