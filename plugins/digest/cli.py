"""`glmbot digest`: look at digests, and have them sent."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import typer

from bot import ConfigError, open_workspace, run_command

if TYPE_CHECKING:
    from bot import Workspace
    from plugins.digest.base import Digest

app = typer.Typer(help="Look at digests, and have them sent.", no_args_is_help=True)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (default: ./config.yaml).")
]
Name = Annotated[str, typer.Argument(help="Of plugins.digest.digests.", metavar="NAME")]


@app.command()
def preview(
    name: Name,
    config: ConfigOption = None,
    at: Annotated[
        datetime | None, typer.Option("--at", help="As if it were due then (default: now), local time.")
    ] = None,
) -> None:
    """Print a digest without sending it, and without the model's summary."""
    run_command(_preview(name, config, at.timestamp() if at else time()))


@app.command()
def send(name: Name, config: ConfigOption = None) -> None:
    """Have the running bot send a digest within a minute, besides its times."""
    run_command(_send(name, config))


async def _preview(name: str, config: Path | None, at: float) -> int:
    from bot import Catalogue
    from bot.store import Tally
    from plugins.digest.base import plugin
    from plugins.digest.sending import Press
    from plugins.digest.tables import Runs

    async with open_workspace(plugin, config) as work:
        digest = _named(work, name)
        last = await Runs(work.store).last(name)
        press = Press(Tally(work.store), Catalogue.load(), work.index().encoder, None)
        numbers = await press.numbers(digest, at - 86400.0 if last is None or last >= at else last, at)
        typer.echo(await press.text(digest, numbers))
    return 0


async def _send(name: str, config: Path | None) -> int:
    from plugins.digest.base import plugin
    from plugins.digest.tables import Runs

    async with open_workspace(plugin, config) as work:
        _named(work, name)
        await Runs(work.store).ask(name, time())
    typer.echo(f"{name}: the running bot sends it within a minute", err=True)
    return 0


def _named(work: Workspace, name: str) -> Digest:
    """The digest of that name. Raises ConfigError."""
    from plugins.digest.base import Config

    assert isinstance(work.config, Config)
    found = next((digest for digest in work.config.digests if digest.name == name), None)
    if found is None:
        known = ", ".join(digest.name for digest in work.config.digests) or "none"
        raise ConfigError(
            f"there is no digest {name!r}", key="plugins.digest.digests", remedy=f"known are: {known}"
        )
    return found
