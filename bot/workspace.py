"""What a plugin's sub-command works with: its settings, the database and its index, without a running bot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel

from bot.config import LoadedConfig, load_config, validate_plugin_config
from bot.plugin import Plugin

if TYPE_CHECKING:
    from bot.retrieval import Index
    from bot.store import Store


@dataclass(frozen=True, slots=True)
class Workspace:
    """One plugin's settings and the open, migrated database; `index` makes an empty index of its kind."""

    plugin: Plugin
    loaded: LoadedConfig
    config: BaseModel
    store: Store

    def index(self) -> Index:
        """An index as the running bot would have it, vectors cached in the same place."""
        from bot.retrieval import Index, load_encoder

        encoder = load_encoder(self.loaded.config.retrieval.encoder)
        return Index(self.plugin.index, encoder=encoder, cache=self.loaded.vector_cache)


@asynccontextmanager
async def open_workspace(plugin: Plugin, config_file: Path | None = None) -> AsyncIterator[Workspace]:
    """Read the configuration, open the database and bring its tables up to date.

    Raises ConfigError and StoreError.
    """
    from bot.store import Store
    from bot.store.migrations import upgrade

    loaded = load_config(config_file)
    config = validate_plugin_config(plugin.config, loaded, plugin.name)
    store = Store(loaded.config.store.url, synchronous=loaded.config.store.synchronous)
    try:
        await upgrade(store, {plugin.name: plugin.tables} if plugin.tables else {})
        store.start()
        yield Workspace(plugin, loaded, config, store)
    finally:
        await store.close()


def run_command(work: Coroutine[Any, Any, int]) -> None:
    """Run a sub-command to its exit code; errors rise to `glmbot`, which tells them in one line."""
    code = asyncio.run(work)
    if code:
        raise typer.Exit(code)
