"""`glmbot user`: what is stored about one user."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.output import ConfigOption, print_table, read_config

if TYPE_CHECKING:
    from bot.config import Config
    from bot.store.erase import Person

app = typer.Typer(help="Remove what is stored about one user.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Remove what is stored about one user."""


@app.command()
def erase(
    who: Annotated[
        str, typer.Argument(metavar="CONNECTOR:USER", help="Connector (its name or type) and user id.")
    ],
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Remove everything stored about one user, plugins' tables included, and say what was removed.

    Questions, answers and history of private chats and of groups go, also what waits to be answered or sent.
    Works while the bot runs. Backups that were made before are yours to remove.
    """
    from bot.errors import DataError

    loaded = read_config(config)
    connector, separator, user = who.partition(":")
    if not connector or not separator or not user:
        raise DataError(f"{who!r} names nobody", remedy="write CONNECTOR:USER, such as main:12345")
    person = _person(loaded.config, connector, user)
    if not asyncio.run(_erase(loaded.config.store.url, person, who, yes)):
        known = ", ".join(item.name for item in loaded.config.connectors) or "none"
        typer.echo(f"nothing is stored about {who} (connectors: {known})")


def _person(config: Config, connector: str, user: str) -> Person:
    """Whom CONNECTOR:USER means; rows of a connector that is configured no more are found, too."""
    from bot.message import clean_text
    from bot.store.erase import Person

    types = {item.name: item.type for item in config.connectors}
    return Person(clean_text(user), connector, types.get(connector))


async def _erase(url: str, person: Person, who: str, yes: bool) -> bool:
    """Ask where `yes` is not given, remove, report; False where there is nothing."""
    from bot.store.erase import count_rows, erase
    from bot.store.inspection import existing_store

    store = existing_store(url)
    try:
        found = await count_rows(store, person)
        if not found:
            return False
        if not yes:
            print_table(("table", "rows"), [(name, str(rows)) for name, rows in found.items()])
            typer.confirm(f"Remove these {sum(found.values())} rows for good?", abort=True)
        removed = await erase(store, person)
    finally:
        await store.close()
    print_table(("table", "removed"), [(name, str(rows)) for name, rows in removed.items()])
    typer.echo(f"removed {sum(removed.values())} rows about {who}")
    return True
