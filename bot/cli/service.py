"""`glmbot run`, `glmbot chat` and `glmbot doctor`: the bot itself."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.output import ConfigOption, print_table, progress_console, read_config

if TYPE_CHECKING:
    from bot.config import LoadedConfig
    from bot.findings import Finding


def run(config: ConfigOption = None) -> None:
    """Serve until SIGTERM or Ctrl-C, which let it answer what it has accepted first.

    SIGHUP loads the plugins and their files again. Exit code 0: ended in order, 1: failed,
    2: the configuration is wrong.
    """
    import structlog

    from bot.app import App
    from bot.backend import exit_if_loading
    from bot.config import load_config
    from bot.errors import ConfigError
    from bot.logs import configure_logging

    loaded = load_config(config)
    configure_logging(loaded.config)
    log = structlog.get_logger("bot.cli")
    for warning in loaded.warnings:
        log.warning("configuration", problem=warning)
    try:
        asyncio.run(App(loaded).run())
    except ConfigError as error:
        raise loaded.located(error) from error
    exit_if_loading()


def chat(config: ConfigOption = None) -> None:
    """Talk to the bot here: the same plugins and history, no HTTP server and no other connector.

    Reads a question a line from standard input until it ends, or until Ctrl-C; answers go to standard output.
    """
    from bot.backend import exit_if_loading

    asyncio.run(_chat(read_config(config)))
    exit_if_loading()


async def _chat(loaded: LoadedConfig) -> None:
    from bot.app import App
    from bot.config_connectors import ConsoleSettings
    from bot.connectors.console import Console

    settings = [item for item in loaded.config.connectors if isinstance(item, ConsoleSettings)]
    console = Console(settings[0] if settings else ConsoleSettings(name="console"))
    app = App(loaded, connectors=[console], serve=False)
    ended = asyncio.ensure_future(console.wait())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.cancel)
    starting = asyncio.ensure_future(app.start())
    ended.add_done_callback(lambda _: starting.cancel())
    try:
        with suppress(asyncio.CancelledError):
            await starting
            await ended
    finally:
        await app.stop()


class Topic(StrEnum):
    """What the doctor can look into by itself."""

    wecom = "wecom"


def doctor(
    topic: Annotated[Topic | None, typer.Argument(help="Look into this only, and thoroughly.")] = None,
    config: ConfigOption = None,
) -> None:
    """Check everything that a start needs, and say what to do about what is wrong.

    With the topic wecom: secrets, applications, trusted IPs, accounts and callback URLs, one by one.
    Exit code 0: nothing is wrong or only warnings, 1: something has failed.
    """
    from bot.doctor import examine

    async def collect() -> list[Finding]:
        found = []
        with progress_console().status("Checking") as status:
            async for finding in examine(config, topic.value if topic else None):
                found.append(finding)
                status.update(f"Checking (after {finding.check})")
        return found

    findings = asyncio.run(collect())
    print_table(
        ("", "check", "found", "what to do"),
        [(item.state, item.check, item.detail, item.remedy) for item in findings],
    )
    failed = sum(item.state == "fail" for item in findings)
    warned = sum(item.state == "warn" for item in findings)
    typer.echo(f"\n{len(findings)} checks, {failed} failed, {warned} warnings")
    raise typer.Exit(1 if failed else 0)
