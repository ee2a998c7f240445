"""Fixtures that several folders of tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from bot.app import App
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.loader import Loaded, Plugins
from bot.plugin import Plugin
from bot.yaml_source import YamlSource

# a machine that does other things as well may take a second for what usually takes a millisecond
settings.register_profile(
    "patient",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")

ServeBot = Callable[..., Awaitable[App]]


@pytest.fixture
async def serve_bot(tmp_path: Path) -> AsyncIterator[ServeBot]:
    """Starts whole bots: of the given plugins and connector entries, on a free port, on one database file."""
    apps: list[App] = []

    async def serve(plugin: Plugin, *connectors: dict[str, Any], **sections: Any) -> App:
        data = {
            "server": {"port": 0},
            "store": {"url": f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"},
            "plugins": {plugin.name: {}},
            "connectors": list(connectors),
            **sections,
        }
        loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
        own = Loaded(plugin, validate_plugin_config(plugin.config, loaded, plugin.name), "test")
        app = App(loaded, plugins=Plugins([own]))
        await app.start()
        apps.append(app)
        return app

    yield serve
    for app in apps:
        await app.stop()
