"""`glmbot faq unanswered`, `candidates`, `approve`, `edit` and `reject`."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import typer

from bot import open_workspace, run_command

if TYPE_CHECKING:
    from plugins.faq.learning import Candidate

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (default: ./config.yaml).")
]
Number = Annotated[int, typer.Argument(help="Of the candidate.", metavar="NUMBER")]


def unanswered(
    config: ConfigOption = None,
    days: Annotated[int, typer.Option("--days", min=1, help="Asked within so many days.")] = 30,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Groups of questions that are shown.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the questions that got no answer, or none that helped; what says the same is put together."""
    run_command(_unanswered(config, days, limit, as_json))


def candidates(config: ConfigOption = None) -> None:
    """List the proposed answers that wait for approval."""
    run_command(_candidates(config))


def approve(
    number: Number,
    config: ConfigOption = None,
    answer: Annotated[str, typer.Option("--answer", help="Instead of the proposed one.")] = "",
) -> None:
    """Make a candidate an entry of the FAQ. A running bot takes it up by itself."""
    run_command(_approve(number, config, answer))


def edit(
    number: Number,
    answer: Annotated[str, typer.Argument(help="The answer that it has from now on.")],
    config: ConfigOption = None,
) -> None:
    """Give a candidate another answer."""
    run_command(_edit(number, answer, config))


def reject(
    number: Number,
    config: ConfigOption = None,
    why: Annotated[str, typer.Option("--why", help="Kept with it.")] = "",
) -> None:
    """Turn a candidate down."""
    run_command(_reject(number, config, why))


async def _unanswered(config: Path | None, days: int, limit: int, as_json: bool) -> int:
    from plugins.faq.base import plugin
    from plugins.faq.learning import Learning, grouped

    async with open_workspace(plugin, config) as work:
        found = await Learning(work.store).unanswered(time() - days * 86400.0)
        groups = (await asyncio.to_thread(grouped, found, work.index().encoder))[:limit] if found else []
    if as_json:
        rows = [
            {
                "id": one.id,
                "questions": one.questions,
                "misses": one.misses,
                "votes": one.votes,
                "last": datetime.fromtimestamp(one.last_at).isoformat(timespec="seconds"),
            }
            for one in groups
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    for one in groups:
        last = datetime.fromtimestamp(one.last_at)
        typer.echo(f"#{one.id:<6} {one.count:>5}  {last:%Y-%m-%d}  {one.questions[0]}")
        for question in one.questions[1:4]:
            typer.echo(f"{'':26}{question}")
    if not groups:
        typer.echo("nothing went unanswered", err=True)
    return 0


async def _candidates(config: Path | None) -> int:
    from plugins.faq.base import plugin
    from plugins.faq.learning import Learning

    async with open_workspace(plugin, config) as work:
        found = await Learning(work.store).candidates()
    for one in found:
        typer.echo(f"{one.id}  {one.questions[0]}\n    {one.answer}\n    by {one.by}")
    if not found:
        typer.echo("no answer waits for approval", err=True)
    return 0


async def _approve(number: int, config: Path | None, answer: str) -> int:
    from bot.store import TERMINAL, Audit
    from plugins.faq.approving import approve as approve_candidate
    from plugins.faq.base import plugin
    from plugins.faq.learning import Learning
    from plugins.faq.tables import FaqTable

    async with open_workspace(plugin, config) as work:
        learning = Learning(work.store)
        candidate = await learning.candidate(number)
        audit = Audit.add(TERMINAL, "faq-approve", str(number), answer)
        await approve_candidate(learning, FaqTable(work.store), candidate, TERMINAL, audit, answer)
    return _told(candidate, f"live as {candidate.entry_id}")


async def _edit(number: int, answer: str, config: Path | None) -> int:
    from bot.store import TERMINAL, Audit
    from plugins.faq.base import plugin
    from plugins.faq.learning import Learning

    async with open_workspace(plugin, config) as work:
        learning = Learning(work.store)
        candidate = await learning.candidate(number)
        await learning.edit(candidate, answer, Audit.add(TERMINAL, "faq-edit", str(number)))
    return _told(candidate, "changed")


async def _reject(number: int, config: Path | None, why: str) -> int:
    from bot.store import TERMINAL, Audit
    from plugins.faq.base import plugin
    from plugins.faq.learning import Learning

    async with open_workspace(plugin, config) as work:
        learning = Learning(work.store)
        candidate = await learning.candidate(number)
        audit = Audit.add(TERMINAL, "faq-reject", str(number), why)
        await learning.decide(candidate, "rejected", TERMINAL, time(), audit, why=why)
    return _told(candidate, "turned down")


def _told(candidate: Candidate, what: str) -> int:
    typer.echo(f"{candidate.id} {candidate.questions[0]}: {what}")
    return 0
