"""`glmbot plugin`: list plugins, begin a new one, run the tests of one's own."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.output import ConfigOption, print_table, read_config

if TYPE_CHECKING:
    from bot.config import LoadedConfig
    from bot.loader import Loaded

app = typer.Typer(help="List plugins, begin a new one, test your own.", no_args_is_help=True)
FOLDER = Path("plugins_local")
_NO_TESTS = 5  # pytest's exit code
_PYTEST_OPTIONS = (
    *("-o", "asyncio_mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
    # Tests import the module beside them, whatever the project's own pytest settings say.
    "--import-mode=prepend",
)


@app.command("list")
def list_(config: ConfigOption = None) -> None:
    """Show every plugin, where it comes from, whether it is on, its commands and schedules.

    They are started for it, with a database in memory and without connectors; so what is off here is off
    in `glmbot run`, too.
    """
    from bot.doctor import rehearse

    loaded = read_config(config)
    rehearsal = asyncio.run(rehearse(loaded))
    rows = [(item.plugin.name, _short(item.origin), "ok", *_handlers(item)) for item in rehearsal.loaded]
    rows += [(item.name, _short(item.origin), f"off: {item.problem}", "", "") for item in rehearsal.failures]
    rows += [(name, "", "off: enabled is false in the configuration", "", "") for name in _disabled(loaded)]
    print_table(("plugin", "from", "state", "commands", "schedules"), sorted(rows))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name, such as shop-hours.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write it; made if need be.")] = FOLDER,
) -> None:
    """Write a plugin and its test, which pass as they are, to begin with."""
    from bot.scaffold import new_plugin

    plugin, test = new_plugin(name, folder)
    typer.echo(f"written: {plugin} and {test}\n")
    typer.echo("1. Let the bot load it. In config.yaml:")
    typer.echo(f"     plugin_folders: [{folder}]")
    typer.echo("2. Run its tests:")
    typer.echo(f"     glmbot plugin test {folder}")


@app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A folder, a test, or a plugin beside its test; options of pytest may follow "
            "(default: plugin_folders of the configuration, else ./plugins_local)."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run plugins' tests with pytest: exit code 0 when all pass."""
    from bot.errors import BotError, DataError

    missing = [name for name in ("pytest", "pytest_asyncio") if importlib.util.find_spec(name) is None]
    if missing:
        raise BotError(f"tests need {' and '.join(missing)}; run: pip install 'glmbot[test]'")
    if path is not None and str(path).startswith("-"):
        ctx.args, path = [str(path), *ctx.args], None
    places = _test_places(path, config)
    for place in places:
        if not place.exists():
            raise DataError("no such file or folder", file=place, remedy="glmbot plugin new NAME begins one")
    command = [sys.executable, "-m", "pytest", *_PYTEST_OPTIONS, *map(str, places), *ctx.args]
    code = subprocess.run(command, check=False).returncode
    if code == _NO_TESTS:
        raise BotError(f"no tests in {', '.join(map(str, places))}; their files are called test_NAME.py")
    raise typer.Exit(code)


def _test_places(path: Path | None, config: Path | None) -> list[Path]:
    """What pytest is given: a plugin's own file stands for the test beside it."""
    if path is None:
        return list(read_config(config).config.plugin_folders) or [FOLDER]
    if path.suffix == ".py" and not path.name.startswith("test_"):
        return [path.with_name(f"test_{path.name}")]
    return [path]


def _handlers(item: Loaded) -> tuple[str, str]:
    """Its commands with their other names, and its cron lines."""
    handlers = item.plugin.handlers
    commands = ["/" + "|".join(handler.names) for handler in handlers if handler.kind == "command"]
    schedules = [handler.names[0] for handler in handlers if handler.kind == "schedule"]
    return " ".join(commands), ", ".join(schedules)


def _disabled(loaded: LoadedConfig) -> list[str]:
    return [name for name, entry in loaded.config.plugins.items() if not entry.enabled]


def _short(origin: str) -> str:
    """A path below the current folder, from there."""
    path = Path(origin)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else origin
