"""What a platform must offer to the core, and what the core offers to a platform."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from aiohttp import web

from bot.message import Message, Segment
from bot.reply import Outgoing, Target
from bot.store.history import Round


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a platform can show. `unit` is what it counts `max_text` in.

    `pull`: nobody is called; an answer is delivered by being committed, and the client fetches it.
    `shows_sources`: sources are delivered beside the text, not at its end.
    `retry_schedule`: seconds before each next try of a failed send; its last entry repeats.
    `give_up_after`: seconds after which an unsent part is marked failed.
    `max_parts`: how many messages may answer one; a longer answer is cut.
    `attachments`: the kinds of attachment it takes.
    `speaks_first`: it can send to a chat that has asked nothing.
    """

    max_text: int = 4096
    unit: Literal["characters", "utf16", "bytes"] = "characters"
    pull: bool = False
    streaming: bool = False
    shows_sources: bool = False
    retry_schedule: tuple[float, ...] = (1, 2, 5, 10, 30, 60)
    give_up_after: float = 24 * 3600.0
    max_parts: int | None = None
    attachments: frozenset[str] = frozenset()
    speaks_first: bool = True


@dataclass(frozen=True, slots=True)
class Receipt:
    """The inbox took a message (or had it already): only now may the platform be acknowledged.

    `inbox_id` is 0 for a group's own talk that nobody here listens to: it is not recorded.
    """

    inbox_id: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a message has come: `done` once its inbox row is done; replies in order."""

    inbox_id: int
    done: bool
    replies: tuple[Outgoing, ...] = ()


@dataclass(slots=True)
class Status:
    """One connector's entry in /readyz."""

    state: Literal["starting", "ok", "retrying", "off", "stopped"] = "starting"
    detail: str = ""


class Inlet(Protocol):
    """The core, as a connector sees it."""

    async def receive(self, message: Message) -> Receipt:
        """Commit a message to the inbox. Raises Overloaded or StoreError: do not acknowledge then."""
        ...

    async def receive_many(self, messages: Sequence[Message]) -> list[Receipt]:
        """Commit a batch in one transaction, in order. Raises like `receive`."""
        ...

    async def outcome(self, inbox_id: int, *, wait: float = 0.0) -> Outcome:
        """What became of a message, waiting up to `wait` seconds for it to be done."""
        ...

    async def find(self, connector: str, bot: str, delivery: str) -> int | None:
        """The inbox id of a delivery, or None."""
        ...

    async def talk(self, message: Message, limit: int) -> list[Round]:
        """The last rounds of the session that a message from this chat and user belongs to."""
        ...

    async def sent(self, connector: str, bot: str, user: str, *, after: int, limit: int) -> list[Outgoing]:
        """The newest parts for one user whose id is above `after`, oldest first."""
        ...

    async def chat_moved(self, connector: str, bot: str, old: str, new: str) -> None:
        """The platform renamed a chat: rename stored sessions and unsent parts."""
        ...


class Connector(Protocol):
    """One bot on one platform. `kind` is the platform, `name` the bot's name in the config."""

    kind: str
    name: str
    capabilities: Capabilities
    status: Status

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """HTTP routes to mount; called once before `start`."""
        ...

    async def start(self, inlet: Inlet) -> None:
        """Begin to receive. Must return soon; a platform out of reach is retried in the background."""
        ...

    async def stop(self) -> None:
        """Stop receiving; sending goes on until `close`."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...

    async def send(self, outgoing: Outgoing) -> str | None:
        """Send (or complete, where `edits` is set) one part; returns the platform's message id.

        Raises ConnectorError (retried; after `retry_after` where given) or Undeliverable.
        """
        ...

    async def typing(self, target: Target) -> None:
        """Show that an answer is being written; failures are the connector's own business."""
        ...

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """Show the text so far of a streamed answer.

        `shown` is the id of the message that shows it already, if any; returns its id once there is
        one that the final `send` should edit, else None. Throttling is the connector's own business.
        """
        ...


@runtime_checkable
class HumanDesk(Protocol):
    """A connector whose platform has a desk of its own where people take over conversations."""

    async def hand_over(self, target: Target) -> None:
        """Move a conversation to people; nothing to do where they have it. Raises ConnectorError."""
        ...

    async def take_back(self, target: Target) -> None:
        """Move a conversation back from people, as far as the platform lets. Raises ConnectorError."""
        ...

    async def with_people(self, target: Target) -> bool:
        """Whether people have a conversation now, or it waits for them. Raises ConnectorError."""
        ...


@runtime_checkable
class MediaSource(Protocol):
    """A connector that can fetch what a segment refers to."""

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        """The medium's bytes. Raises ConnectorError, also where it has more than `limit` bytes."""
        ...
