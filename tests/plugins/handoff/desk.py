"""A platform with a desk of its own, and a plugin that shows whether the bot speaks."""

from __future__ import annotations

from bot import ConnectorError, Message, Plugin, Segment, Undeliverable
from bot.connectors.base import Capabilities
from bot.reply import Outgoing, Target
from bot.testing import FakeConnector

echo = Plugin("echo")


@echo.message()
def repeat(message: Message) -> str:
    return f"bot: {message.text}"


late = Plugin("late")


@late.startup
async def start_slowly() -> None:
    await meanwhile()


async def meanwhile() -> None:
    """What happens while a plugin behind this one starts."""


class PickyConnector(FakeConnector):
    """A platform that is called to send, and will never take what is for the chats in `refused`."""

    def __init__(self, refused: set[str]) -> None:
        super().__init__()
        self.capabilities = Capabilities()
        self.refused = refused

    async def send(self, outgoing: Outgoing) -> str | None:
        if outgoing.target.chat in self.refused:
            raise Undeliverable("no such chat")
        return await super().send(outgoing)


class MediaConnector(FakeConnector):
    """A platform that takes images and gives media, unless it is `broken`."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = Capabilities(pull=True, attachments=frozenset({"image"}))
        self.broken = False

    async def fetch(self, segment: Segment, limit: int) -> bytes:
        if self.broken:
            raise ConnectorError("gone")
        return segment.ref.encode()


class DeskConnector(FakeConnector):
    """A platform with a desk, which may be closed, or gone for good; `talks` are those that people have."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.closed = False
        self.gone = False
        self.talks: set[str] = set()
        self.asked = 0

    async def hand_over(self, target: Target) -> None:
        self._move("over", target)
        self.talks.add(target.chat)

    async def take_back(self, target: Target) -> None:
        self._move("back", target)
        self.talks.discard(target.chat)

    async def with_people(self, target: Target) -> bool:
        self.asked += 1
        if self.closed:
            raise ConnectorError("away")
        return target.chat in self.talks

    def _move(self, way: str, target: Target) -> None:
        if self.gone:
            raise Undeliverable("there is no such talk")
        if self.closed:
            raise ConnectorError("nobody on duty", code=95000)
        self.calls.append((way, target.chat))
