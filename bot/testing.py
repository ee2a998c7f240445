"""The test kit for plugin authors: a whole bot without a network, and pytest's fixture `bot_tester`.

Installed with glmbot as a pytest plugin; it imports nothing of the bot until a test uses it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiohttp import web

    from bot.app import App
    from bot.connectors.base import Inlet
    from bot.message import Message
    from bot.plugin import Plugin
    from bot.reply import Outgoing, Target
    from model.types import Delta, GenerationParams, Turn

ANSWER_WITHIN = 10.0


class FakeModel:
    """A ChatModel that answers from a function, piece by piece."""

    name = "fake"
    max_context = 2048

    def __init__(self, answer: Callable[[str], Iterable[str]]) -> None:
        self.prompts: list[tuple[str, list[Turn]]] = []
        self.params: list[GenerationParams] = []
        self._answer = answer

    def count_tokens(self, text: str) -> int:
        """One token per character."""
        return len(text)

    async def chat(
        self, query: str, history: Sequence[Turn], params: GenerationParams, *, user: str
    ) -> AsyncIterator[Delta]:
        """Stream what the function returns for the query."""
        from model.types import Delta

        self.prompts.append((query, list(history)))
        self.params.append(params)
        for piece in self._answer(query):
            yield Delta(piece)
        yield Delta("", finish="stop")

    async def close(self) -> None:
        """Nothing to give back."""


class FakeConnector:
    """A platform that keeps what it is sent.

    `shown` is every state of streamed answers; `seen` is set once there is one.
    """

    kind = "test"

    def __init__(self, name: str = "bot") -> None:
        from bot.connectors.base import Capabilities, Status

        self.name = name
        self.capabilities = Capabilities(pull=True, streaming=True, shows_sources=True)
        self.status = Status("ok")
        self.sent: list[Outgoing] = []
        self.shown: list[str] = []
        self.seen = asyncio.Event()

    def routes(self) -> list[web.AbstractRouteDef]:
        """No routes."""
        return []

    async def start(self, inlet: Inlet) -> None:
        """Nothing to receive: tests speak through BotTester."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def send(self, outgoing: Outgoing) -> str | None:
        """Keep it."""
        self.sent.append(outgoing)
        return str(len(self.sent))

    async def typing(self, target: Target) -> None:
        """Not shown."""

    async def progress(
        self, target: Target, text: str, shown: str | None, *, markdown: bool = False
    ) -> str | None:
        """Keep the text so far."""
        self.shown.append(text)
        self.seen.set()
        return None


@dataclass(frozen=True, slots=True)
class Said:
    """What the bot answered to one message; `text` joins the parts, "" is silence."""

    replies: tuple[Outgoing, ...]

    @property
    def text(self) -> str:
        return "\n".join(reply.text for reply in self.replies)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for reply in self.replies for source in reply.sources)

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(choice for reply in self.replies for choice in reply.choices)


@dataclass(frozen=True, slots=True)
class Person:
    """One user in one chat; in a group the bot hears what mentions "@bot" or is a command."""

    tester: BotTester
    id: str
    chat: str
    is_group: bool

    def user(self, name: str) -> Person:
        """Another user in the same chat."""
        return replace(self, id=name)

    async def say(self, text: str, **changes: Any) -> Said:
        """Say something and wait for the answer; `changes` set other fields of the Message."""
        return await self.tester.deliver(self.message(text, **changes))

    async def do(self, event: str, **data: Any) -> Said:
        """Let the platform report an event of this user."""
        return await self.tester.deliver(self.message("", event=event, data=data))

    def message(self, text: str, **changes: Any) -> Message:
        """What the platform would deliver, not delivered yet."""
        from bot.message import Chat, Message, User

        mentioned = text.startswith("@bot")
        message = Message(
            connector=FakeConnector.kind,
            bot=self.tester.connector.name,
            delivery=f"d{next(self.tester.deliveries)}",
            chat=Chat(self.chat, group=self.is_group),
            user=User(self.id, name=self.id),
            text=text.removeprefix("@bot").lstrip() if mentioned else text,
            mentioned=mentioned,
        )
        return replace(message, **changes)


class BotTester:
    """A bot of the given plugins on a database in memory; it starts with the first message."""

    def __init__(self) -> None:
        self.connector = FakeConnector()
        self.deliveries = itertools.count(1)
        self.model: FakeModel | None = None
        self._plugins: list[tuple[Plugin, Mapping[str, Any]]] = []
        self._config: dict[str, Any] = {}
        self._app: App | None = None
        self._starting = asyncio.Lock()

    def use(self, plugin: Plugin, **settings: Any) -> BotTester:
        """Load a plugin with these settings; call it before the first message."""
        self._plugins.append((plugin, settings))
        return self

    def configure(self, **sections: Any) -> BotTester:
        """Set sections of the configuration, such as groups={"respond": "all"}."""
        self._config.update(sections)
        return self

    def with_model(self, answer: Callable[[str], Iterable[str]]) -> BotTester:
        """Give the bot a model that answers with the pieces `answer` returns."""
        self.model = FakeModel(answer)
        return self

    def private(self, user: str = "u1") -> Person:
        """A user in a private chat with the bot."""
        return Person(self, user, user, is_group=False)

    def group(self, chat: str) -> Person:
        """The group; name who speaks by `.user(id)`."""
        return Person(self, "u1", chat, is_group=True)

    async def app(self) -> App:
        """The running bot."""
        async with self._starting:
            if self._app is None:
                app = self._build()
                await app.start()
                self._app = app
        return self._app

    async def deliver(self, message: Message) -> Said:
        """Hand a message to the bot and wait for what it answers."""
        app = await self.app()
        receipt = await app.dispatch.receive(message)
        if not receipt.inbox_id:
            return Said(())
        outcome = await app.dispatch.outcome(receipt.inbox_id, wait=ANSWER_WITHIN)
        assert outcome.done, f"no answer within {ANSWER_WITHIN:g} s"
        return Said(outcome.replies)

    async def close(self) -> None:
        """Stop the bot."""
        if self._app is not None:
            await self._app.stop()
            self._app = None

    def _build(self) -> App:
        from bot.app import App
        from bot.config import Config, LoadedConfig, validate_plugin_config
        from bot.loader import Loaded, Plugins
        from bot.yaml_source import YamlSource

        data = {
            "store": {"url": "sqlite+aiosqlite:///:memory:"},
            "connectors": [],
            "plugins": {plugin.name: dict(settings) for plugin, settings in self._plugins},
            **self._config,
        }
        loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
        plugins = Plugins(
            [
                Loaded(plugin, validate_plugin_config(plugin.config, loaded, plugin.name), "test")
                for plugin, _ in self._plugins
            ]
        )
        return App(loaded, connectors=[self.connector], model=self.model, plugins=plugins, serve=False)


try:
    import pytest_asyncio
except ImportError:  # the fixture says what is missing, other test suites go on

    @pytest.fixture(name="bot_tester")
    def bot_tester_missing() -> BotTester:
        """Needs pytest-asyncio."""
        raise pytest.UsageError("bot_tester needs pytest-asyncio: pip install 'glmbot[test]'")

else:

    @pytest_asyncio.fixture
    async def bot_tester() -> AsyncIterator[BotTester]:
        """A BotTester, stopped after the test."""
        tester = BotTester()
        yield tester
        await tester.close()
