"""A platform with a desk of its own, and a plugin that shows whether the bot speaks."""

from __future__ import annotations

from bot import ConnectorError, Message, Plugin
from bot.reply import Target
from bot.testing import FakeConnector

echo = Plugin("echo")


@echo.message()
def repeat(message: Message) -> str:
    return f"bot: {message.text}"


class DeskConnector(FakeConnector):
    """A platform with a desk, which may be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.closed = False

    async def hand_over(self, target: Target) -> None:
        self._move("over", target)

    async def take_back(self, target: Target) -> None:
        self._move("back", target)

    def _move(self, way: str, target: Target) -> None:
        if self.closed:
            raise ConnectorError("nobody on duty", code=95000)
        self.calls.append((way, target.chat))
