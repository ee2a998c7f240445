"""`glmbot audit`: who of the staff did what."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bot.config import load_config


def audit(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file (default: ./config.yaml).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines at most.")] = 50,
) -> None:
    """Print the newest actions of staff, newest first: when, who, what, on what."""
    asyncio.run(_audit(config, limit))


async def _audit(config: Path | None, limit: int) -> None:
    from bot.store import Audit
    from bot.store.inspection import existing_store

    store = existing_store(load_config(config).config.store.url)
    try:
        for one in await Audit(store).latest(limit):
            at = f"{datetime.fromtimestamp(one.at):%Y-%m-%d %H:%M:%S}"
            typer.echo("  ".join(filter(None, (at, one.actor, one.action, one.subject, one.detail))))
    finally:
        await store.close()
