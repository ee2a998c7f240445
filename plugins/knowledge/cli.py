"""`glmbot kb`: add, list, remove and search documents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot import DataError, Workspace, open_workspace, run_command

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.knowledge.plugin import Config

app = typer.Typer(help="Add, list, remove and search documents.", no_args_is_help=True)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (default: ./config.yaml).")
]


@app.command("add")
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders to read.", metavar="PATH...")],
    config: ConfigOption = None,
) -> None:
    """Read documents into the database, where they stay until removed.

    A running bot takes them up by itself. Exit code 1 when some could not be read, 2 when none could.
    """
    run_command(_add(paths, config))


@app.command("list")
def list_(config: ConfigOption = None) -> None:
    """Show all documents: id, passages, where they come from, path and title."""
    run_command(_list(config))


@app.command("remove")
def remove(
    ids: Annotated[list[str], typer.Argument(help="Ids as `kb list` shows them.", metavar="ID...")],
    config: ConfigOption = None,
) -> None:
    """Take added documents out of the database."""
    run_command(_remove(ids, config))


@app.command("search")
def search(
    query: Annotated[str, typer.Argument(help="A question as a customer would ask it.")],
    config: ConfigOption = None,
) -> None:
    """Show the passages a question finds and what would be answered.

    Exit code 0: answered, 1: below the threshold.
    """
    run_command(_search(query, config))


async def _add(paths: list[Path], config: Path | None) -> int:
    from rich.progress import track

    from plugins.knowledge.plugin import plugin
    from plugins.knowledge.sync import Reading, list_files, read_files
    from plugins.knowledge.tables import KnowledgeTable

    files, problems = await asyncio.to_thread(list_files, [path.absolute() for path in paths])
    reading = Reading(problems=list(problems))
    async with open_workspace(plugin, config) as work:
        table = KnowledgeTable(work.store)
        known = {document.path: document for document in await table.documents()}
        for file in track(files, "Reading", console=_console(), transient=True):
            reading.join(await asyncio.to_thread(read_files, [file], known, added=True))
        if reading.documents or reading.touched:
            await table.write(reading.documents, touched=reading.touched)
    for document, pieces in reading.documents:
        typer.echo(f"{document.id}  {len(pieces)} passages  {document.path}")
    for problem in reading.problems:
        typer.echo(f"error: {problem}", err=True)
    unchanged = len(files) - len(reading.documents) - (len(reading.problems) - len(problems))
    typer.echo(f"{len(reading.documents)} added, {unchanged} unchanged, {len(reading.problems)} not read")
    if reading.problems or not files:
        return 1 if reading.documents or unchanged else 2
    return 0


async def _list(config: Path | None) -> int:
    from plugins.knowledge.plugin import plugin
    from plugins.knowledge.sync import sync
    from plugins.knowledge.tables import KnowledgeTable

    async with open_workspace(plugin, config) as work:
        table = KnowledgeTable(work.store)
        problems = (await sync(table, _settings(work).folders)).problems
        documents = await table.documents()
    for document in documents:
        origin = "added " if document.added else "folder"
        typer.echo(f"{document.id}  {document.passages:>4}  {origin}  {document.path}  {document.title}")
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    typer.echo(f"{len(documents)} documents", err=True)
    return 1 if problems else 0


async def _remove(ids: list[str], config: Path | None) -> int:
    from plugins.knowledge.plugin import plugin
    from plugins.knowledge.tables import KnowledgeTable

    async with open_workspace(plugin, config) as work:
        table = KnowledgeTable(work.store)
        known = {document.id: document for document in await table.documents()}
        for key in ids:
            if key not in known:
                raise DataError(f"there is no document {key!r}", remedy="`glmbot kb list` shows the ids")
            if not known[key].added:
                file = Path(known[key].path)
                raise DataError("it comes from a configured folder", file=file, remedy="remove the file")
        await table.write(gone=ids)
    typer.echo(f"{len(set(ids))} removed")
    return 0


async def _search(query: str, config: Path | None) -> int:
    from rich.progress import Progress

    from bot.retrieval import best_sentences
    from plugins.knowledge.plugin import plugin, threshold
    from plugins.knowledge.sync import sync
    from plugins.knowledge.tables import KnowledgeTable

    async with open_workspace(plugin, config) as work:
        settings = _settings(work)
        table = KnowledgeTable(work.store)
        for problem in (await sync(table, settings.folders)).problems:
            typer.echo(f"error: {problem}", err=True)
        entries = await table.entries()
    index = work.index()
    with Progress(console=_console(), transient=True) as bar:
        task = bar.add_task("Indexing", total=None)
        await asyncio.to_thread(
            index.replace, entries, lambda done, total: bar.update(task, completed=done, total=total)
        )
    hits = await asyncio.to_thread(index.search, query, 5)
    for hit in hits:
        typer.echo(f"{hit.confidence:.2f}  {hit.id}  {hit.entry.title}")
    least = threshold(index, settings, query)
    if not hits or hits[0].confidence < least:
        typer.echo(f"not answered: below the threshold {least:.2f}")
        return 1
    typer.echo(best_sentences(query, hits[0].answer))
    return 0


def _settings(work: Workspace) -> Config:
    from plugins.knowledge.plugin import Config

    assert isinstance(work.config, Config)
    return work.config


def _console() -> Console:
    """Progress goes to stderr, so that stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)
