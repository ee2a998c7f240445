"""`glmbot faq`: import, export and try out FAQ entries."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bot import DataError, Workspace, open_workspace, run_command
from plugins.faq import learning_cli

if TYPE_CHECKING:
    from rich.console import Console

    from bot.retrieval import Entry, Index
    from plugins.faq.base import Config

app = typer.Typer(help="Import, export and try out FAQ entries.", no_args_is_help=True)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (default: ./config.yaml).")
]
Format = Literal["yaml", "csv", "xlsx"]
for _command in (
    learning_cli.unanswered,
    learning_cli.candidates,
    learning_cli.approve,
    learning_cli.edit,
    learning_cli.reject,
):
    app.command()(_command)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="YAML, CSV or XLSX files.", metavar="FILE...")],
    config: ConfigOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop entries imported before that are not in these files.")
    ] = False,
) -> None:
    """Add entries to the database; entries with a known id are changed.

    All files are taken or none. A running bot takes the entries up by itself.
    """
    run_command(_import(files, config, replace))


@app.command("export")
def export(
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (default: stdout).")] = None,
    format: Annotated[  # noqa: A002 - the name of the option
        Format | None, typer.Option("--format", "-f", help="Default: by the suffix of --out, else yaml.")
    ] = None,
) -> None:
    """Write all entries, those of the configured files and the imported ones, to one file."""
    run_command(_export(config, out, format))


@app.command("test")
def try_out(
    question: Annotated[str | None, typer.Argument(help="A question as a customer would ask it.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Questions, one a line; after a tab the expected id, or - for none."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check the FAQ and show what questions would be answered; changes no entry.

    Exit code 0: answered as expected, 1: below the threshold or not as expected, 2: an error in a file.
    """
    run_command(_test(question, file, config))


async def _import(files: Sequence[Path], config: Path | None, replace: bool) -> int:
    from rich.progress import track

    from plugins.faq.base import plugin
    from plugins.faq.files import read_file
    from plugins.faq.importing import import_records
    from plugins.faq.sync import sync
    from plugins.faq.tables import FaqTable

    records = []
    for file in track(files, "Reading", console=_console(), transient=True):
        records += [(file, record) for record in await asyncio.to_thread(read_file, file)]
    async with open_workspace(plugin, config) as work:
        table = FaqTable(work.store)
        await sync(table, _settings(work).files)
        done = await import_records(table, records, replace=replace)
    typer.echo(
        f"{done.new} new, {done.changed} changed, {done.unchanged} unchanged, {done.removed} removed; "
        f"{done.total} imported entries"
    )
    return 0


async def _export(config: Path | None, out: Path | None, format: Format | None) -> int:  # noqa: A002
    from plugins.faq.export import FORMATS

    suffix = out.suffix.lower().lstrip(".").replace("yml", "yaml") if out else "yaml"
    kind = format or suffix
    if kind not in FORMATS:
        raise DataError("cannot tell the format", file=out, remedy=f"add --format {'|'.join(FORMATS)}")
    if out is None and kind == "xlsx":
        raise DataError("a workbook cannot go to the terminal", remedy="add --out FILE.xlsx")
    entries, _, _ = await _entries(config)
    content = await asyncio.to_thread(FORMATS[kind], entries)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return 0
    await asyncio.to_thread(_write_whole, out, content)
    typer.echo(f"{len(entries)} entries written to {out}", err=True)
    return 0


async def _test(question: str | None, file: Path | None, config: Path | None) -> int:
    cases: list[tuple[str, str | None]] = [] if question is None else [(question, None)]
    if file is not None:
        cases += await asyncio.to_thread(_read_cases, file)
    entries, settings, work = await _entries(config)
    if not cases:
        typer.echo(f"{len(entries)} entries, no problem found")
        return 0
    index = work.index()
    await asyncio.to_thread(_fill, index, entries)
    failed = 0
    for text, expected in cases:
        failed += not await asyncio.to_thread(_show, index, settings, text, expected, len(cases) == 1)
    if len(cases) > 1:
        typer.echo(f"{len(cases) - failed} of {len(cases)} as expected")
    return 1 if failed else 0


async def _entries(config: Path | None) -> tuple[list[Entry], Config, Workspace]:
    """What the bot would serve. Raises DataError for the last file in disorder after telling all of them."""
    from plugins.faq.base import plugin
    from plugins.faq.sync import sync
    from plugins.faq.tables import FaqTable

    async with open_workspace(plugin, config) as work:
        settings = _settings(work)
        synced = await sync(FaqTable(work.store), settings.files, commit=False)
    for problem in synced.problems[:-1]:
        typer.echo(f"error: {problem}", err=True)
    if synced.problems:
        raise synced.problems[-1]
    return synced.entries, settings, work


def _settings(work: Workspace) -> Config:
    from plugins.faq.base import Config

    assert isinstance(work.config, Config)
    return work.config


def _console() -> Console:
    """Progress goes to stderr, so that stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)


def _write_whole(file: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all. Raises DataError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(content)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=file) from error


def _read_cases(file: Path) -> list[tuple[str, str | None]]:
    """(question, expected id or None) of each line; `-` expects that nothing is answered."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8", file=file, remedy="save it as UTF-8") from error
    parts = [line.partition("\t") for line in lines if line.strip()]
    return [(text.strip(), expected.strip() or None) for text, _, expected in parts]


def _fill(index: Index, entries: Sequence[Entry]) -> None:
    from rich.progress import Progress

    with Progress(console=_console(), transient=True) as bar:
        task = bar.add_task("Indexing", total=None)
        index.replace(entries, lambda done, total: bar.update(task, completed=done, total=total))


def _show(index: Index, settings: Config, text: str, expected: str | None, full: bool) -> bool:
    """Print what a question finds; whether that is what was expected."""
    from plugins.faq.plugin import threshold

    hits, least = index.search(text, 5), threshold(index, settings, text)
    given = hits[0] if hits and (hits[0].exact or hits[0].confidence >= least) else None
    found = given.id if given else "-"
    right = found == expected if expected else given is not None
    sure = hits[0].confidence if hits else 0.0
    note = f" (expected {expected})" if expected and not right else ""
    typer.echo(f"{'ok  ' if right else 'FAIL'} {sure:.2f} {found:<24} {text}{note}")
    if full:
        for hit in hits:
            typer.echo(f"     {hit.confidence:.2f} {hit.id:<24} {hit.matched}")
        typer.echo(
            f"     answered from {least:.2f} on" + (f":\n{given.answer}" if given else ": not answered")
        )
    return right
