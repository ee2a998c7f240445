"""How long a part is tried: what may have arrived, or never will, must not hold up its chat for a day."""

from __future__ import annotations

import asyncio

import pytest

from bot import ConnectorError, Message, Plugin
from bot.connectors.base import Capabilities
from bot.reply import Outgoing
from bot.testing import BotTester, FakeConnector


class Doubtful(FakeConnector):
    """A platform that fails on every text with "lost" in it."""

    def __init__(self, patience: float | None) -> None:
        super().__init__()
        self.capabilities = Capabilities()
        self.tries = 0
        self.arrived = asyncio.Event()
        self.often = asyncio.Event()
        self._patience = patience

    async def send(self, outgoing: Outgoing) -> str | None:
        if "lost" in outgoing.text:
            self.tries += 1
            if self.tries == 20:
                self.often.set()
            raise ConnectorError("no answer in time", retry_after=0.02, patience=self._patience)
        self.arrived.set()
        return await super().send(outgoing)


@pytest.fixture
def plugin() -> Plugin:
    plugin = Plugin("echo")

    @plugin.message()
    async def echo(message: Message) -> str:
        return message.text

    return plugin


async def test_a_doubtful_part_is_given_up_after_its_patience(bot_tester: BotTester, plugin: Plugin) -> None:
    bot_tester.use(plugin).connector = doubtful = Doubtful(patience=0.1)
    user = bot_tester.private()
    await user.say("lost")
    await user.say("found")
    await asyncio.wait_for(doubtful.arrived.wait(), 10)
    assert doubtful.tries >= 2
    assert [part.text for part in doubtful.sent] == ["found"]


async def test_without_a_patience_the_order_is_kept_however_long_it_takes(
    bot_tester: BotTester, plugin: Plugin
) -> None:
    bot_tester.use(plugin).connector = patient = Doubtful(patience=None)
    user = bot_tester.private()
    await user.say("lost")
    await user.say("found")
    await asyncio.wait_for(patient.often.wait(), 30)
    assert patient.sent == []
