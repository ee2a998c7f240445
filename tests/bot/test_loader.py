"""Loading: a plugin that fails at any stage is off, the others never notice; a reload is all or nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.app import App
from bot.config import load_config
from bot.errors import ConfigError
from bot.testing import BotTester, FakeConnector

GOOD = """
from bot import Message, Plugin
plugin = Plugin("good")
@plugin.message()
async def answer(message: Message) -> str:
    return "good"
"""
BROKEN = {
    "syntax": "def (",
    "exits": "import sys; sys.exit(3)",
    "empty": "x = 1",
    "raises": "raise RuntimeError('no')",
    "needy": """
from pydantic import BaseModel
from bot import Plugin
class Config(BaseModel):
    room: int
plugin = Plugin("needy", config=Config)
""",
    "unknown_service": """
from bot import Plugin
plugin = Plugin("unknown_service")
@plugin.message()
async def answer(weather: bytes) -> str:
    return "?"
""",
    "bad_start": """
import sys
from bot import Plugin
plugin = Plugin("bad_start")
@plugin.startup
async def start() -> None:
    sys.exit(4)
""",
}


class Bot:
    """A bot with a folder of user plugins, spoken to through a fake platform."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder / "plugins_local"
        self.folder.mkdir(exist_ok=True)
        self.file = folder / "config.yaml"
        self.file.write_text(
            "store: {url: 'sqlite+aiosqlite:///:memory:'}\nplugin_folders: [plugins_local]\nconnectors: []\n"
            f"plugins: {{faq: {{enabled: false}}, knowledge: {{enabled: false}}, {settings}}}\n",
            "utf-8",
        )
        self.app: App | None = None
        self.numbers = itertools.count()

    def write(self, name: str, code: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(code, "utf-8")

    async def start(self) -> App:
        self.app = App(load_config(self.file), connectors=[FakeConnector()], serve=False)
        await self.app.start()
        return self.app

    async def say(self, text: str) -> str:
        assert self.app is not None
        message = BotTester().private().message(text, delivery=f"d{next(self.numbers)}")
        receipt = await self.app.dispatch.receive(message)
        outcome = await self.app.dispatch.outcome(receipt.inbox_id, wait=5)
        return "\n".join(reply.text for reply in outcome.replies)


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    bot = Bot(tmp_path)
    yield bot
    if bot.app is not None:
        await bot.app.stop()


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_plugin_is_off_and_the_others_answer(bot: Bot, name: str) -> None:
    bot.write("good.py", GOOD)
    bot.write(f"{name}.py", BROKEN[name])
    app = await bot.start()
    assert await bot.say("hi there") == "good"
    assert [failure.name for failure in app.program.failures] == [name]
    assert app.program.failures[0].problem


async def test_a_plugin_that_needs_a_setting_says_where_it_is_missing(bot: Bot) -> None:
    bot.write("needy.py", BROKEN["needy"])
    app = await bot.start()
    assert "plugins.needy.room" in app.program.failures[0].problem


async def test_a_wrong_setting_of_a_built_in_plugin_stops_the_start(tmp_path: Path) -> None:
    bot = Bot(tmp_path, "help: {colour: red}")
    with pytest.raises(ConfigError, match=r"plugins\.help\.colour"):
        await bot.start()


async def test_settings_for_no_plugin_stop_the_start(tmp_path: Path) -> None:
    bot = Bot(tmp_path, "wether: {}")
    with pytest.raises(ConfigError, match="wether"):
        await bot.start()


async def test_a_name_that_is_taken_is_refused(bot: Bot) -> None:
    bot.write("other.py", GOOD.replace('"good"', '"help"', 1))
    app = await bot.start()
    assert "taken" in app.program.failures[0].problem
    _, report = await app.health()
    assert report["plugins"]["help"] == {"state": "ok"}


async def test_a_reload_takes_changed_files_packages_too(bot: Bot) -> None:
    bot.write("good/__init__.py", "from .words import WORD\n" + GOOD.replace('"good"\n', "WORD\n"))
    bot.write("good/words.py", "WORD = 'first'")
    app = await bot.start()
    assert await bot.say("hi there") == "first"
    bot.write("good/words.py", "WORD = 'the second'")
    await app.reload()
    assert await bot.say("hi there") == "the second"
    await app.reload()
    assert await bot.say("hi there") == "the second"


async def test_a_reload_with_a_broken_file_changes_nothing(bot: Bot) -> None:
    bot.write("good.py", GOOD)
    app = await bot.start()
    bot.write("good.py", "def (")
    await app.reload()
    assert await bot.say("hi there") == "good"
    assert app.program.failures == ()


async def test_user_plugins_cannot_hide_installed_modules(bot: Bot) -> None:
    bot.write("json.py", GOOD.replace('"good"', '"mine"', 1))
    await bot.start()
    import json

    assert json.loads("1") == 1
