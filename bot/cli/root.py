"""The root command: global options, the core's commands, and those that other packages bring."""

from __future__ import annotations

import ast
import importlib.util
import os
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from bot.cli import audit, config, db, plugin, service, user
from bot.errors import BotError, ConfigError, DataError, ModelError

GROUP = "glmbot.commands"
DEBUG = "GLMBOT_DEBUG"


class Commands(TyperGroup):
    """The core's commands and the entry points of `glmbot.commands`, which are imported only when called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return [*super().list_commands(ctx), *(name for name in _points() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command as it stands in lists: that of an entry point has a name and a help text only."""
        own = super().get_command(ctx, cmd_name)
        point = _points().get(cmd_name)
        return own if own or not point else TyperCommand(cmd_name, help=_help(point))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to be called; a broken one costs a line on stderr and exit code 1."""
        point = _points().get(args[0])
        if point is None or args[0] in self.commands:
            return super().resolve_command(ctx, args)
        try:
            return args[0], _load(point), args[1:]
        except Exception as error:
            _fail(ctx, f"the command {args[0]!r} ({point.value}) is broken: {_told(error)}", error, 1)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors are one line on stderr: exit code 2 for bad input, 1 for a failure."""
        try:
            return super().invoke(ctx)
        except (BotError, ModelError) as error:
            _fail(ctx, str(error), error, 2 if isinstance(error, ConfigError | DataError) else 1)
        except Exception as error:
            # typer's own ways to end: exit codes, usage errors, Ctrl-D, a closed pipe
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | EOFError | BrokenPipeError):
                raise
            _fail(ctx, f"unexpected {_told(error)}; glmbot --debug shows the traceback", error, 1)


app = typer.Typer(
    name="glmbot",
    cls=Commands,
    help="Answers customers in group chats: from the FAQ, from documents, by a model in the same process.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
app.command()(service.run)
app.command()(service.chat)
app.command()(service.doctor)
app.command()(audit.audit)
app.add_typer(config.app, name="config")
app.add_typer(plugin.app, name="plugin")
app.add_typer(user.app, name="user")
app.add_typer(db.app, name="db")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glmbot {installed_version('glmbot')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the global options; `Commands` reads them from the context."""


def main() -> None:
    """The console script `glmbot`."""
    # Texts are encoded in several threads already; BLAS threads inside each would only wait for one another,
    # at 4 to 18 times the CPU time. OpenBLAS reads this when numpy is imported, which is later.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(prog_name="glmbot")


def _fail(ctx: Any, line: str, error: Exception, code: int) -> NoReturn:
    if ctx.params.get("debug"):
        raise error
    typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> Any:
    """The click command of an entry point that names a typer.Typer."""
    found = point.load()
    if not isinstance(found, typer.Typer):
        raise TypeError(f"{point.value} is not a typer.Typer")
    root = typer.Typer()
    root.add_typer(found, name=point.name)
    group = typer.main.get_command(root)
    assert isinstance(group, TyperGroup)
    return group.commands[point.name]


def _help(point: EntryPoint) -> str:
    """The first line of the module's docstring, read without running the module."""
    try:
        spec = importlib.util.find_spec(point.module)
        source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except Exception:  # whatever is wrong with it, the other commands are listed
        return f"({point.value} cannot be read)"
    text = line.removeprefix(f"`glmbot {point.name}`: ")
    return text[:1].upper() + text[1:]
