"""`glmbot db`: bring the database up to date, make a backup of it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.output import ConfigOption, print_table, progress_console, read_config

if TYPE_CHECKING:
    from bot.config import LoadedConfig

app = typer.Typer(help="Bring the database up to date, or make a backup of it.", no_args_is_help=True)


@app.command()
def upgrade(config: ConfigOption = None) -> None:
    """Create or change the tables as this version needs them, the plugins' tables included.

    All of it happens or nothing. `glmbot run` does this by itself.
    """
    asyncio.run(_upgrade(read_config(config)))


@app.command()
def backup(
    path: Annotated[
        Path | None,
        typer.Argument(help="File to write, or a folder (default: beside the database, named by the time)."),
    ] = None,
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
) -> None:
    """Copy the SQLite database while the bot goes on; the copy is complete or not there at all.

    To restore: stop the bot, remove the database with its -wal and -shm files, put the copy in its place.
    """
    asyncio.run(_backup(read_config(config), path, force))


async def _upgrade(loaded: LoadedConfig) -> None:
    from bot.loader import load_plugins
    from bot.store import Store
    from bot.store.inspection import revisions
    from bot.store.migrations import upgrade

    plugins = load_plugins(loaded).loaded
    folders = {item.plugin.name: item.plugin.tables for item in plugins if item.plugin.tables}
    store = Store(loaded.config.store.url)
    try:
        before = {item.owner: item.current for item in await revisions(store, folders)}
        await upgrade(store, folders)
        after = await revisions(store, folders)
    finally:
        await store.close()
    rows = [
        (item.owner, before[item.owner] or "none", item.current or "none")
        for item in after
        if item.current != before[item.owner]
    ]
    if rows:
        print_table(("tables of", "was", "is now"), rows)
    else:
        typer.echo("the database is up to date")


async def _backup(loaded: LoadedConfig, path: Path | None, force: bool) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from bot.store.backup import backup
    from bot.store.inspection import database_file, existing_store

    store = existing_store(loaded.config.store.url)
    source = database_file(store.url)
    target = path or (source.parent if source else Path())
    if source is not None and target.is_dir():
        target = target / f"{source.stem}-{datetime.now():%Y%m%d-%H%M%S}.db"
    columns = (TextColumn("Copying"), BarColumn(), DownloadColumn())
    try:
        console = progress_console()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)
            size = await backup(
                store,
                target,
                replace=force,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    finally:
        await store.close()
    typer.echo(f"{target} ({size:,} bytes)")
