"""What the commands share: the --config option, reading it quietly, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bot.config import LoadedConfig

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration file (default: ./config.yaml)."),
]
_WIDE = 10_000  # into a pipe a row is one line, however long
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "off": "yellow"}


def read_config(file: Path | None) -> LoadedConfig:
    """The configuration, its warnings told on stderr; logs show warnings and worse. Raises ConfigError."""
    from bot.config import LogSettings, load_config
    from bot.logs import configure_logging

    loaded = load_config(file)
    quiet = LogSettings(level="warning", format=loaded.config.log.format)
    configure_logging(loaded.config.model_copy(update={"log": quiet}))
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return loaded


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of plain text to stdout; cells that say ok, warn, fail or off are coloured."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def progress_console() -> Console:
    """Progress goes to stderr, so that stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)
