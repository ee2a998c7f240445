"""A talk with a model in the terminal: answers stream, `clear` forgets, `stop` ends."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import typer

from model.serial import Backend
from model.types import GenerationParams, ModelError, Turn

PROMPT = "> "


def talk(model: Backend, params: GenerationParams) -> None:
    """Answer a question a line from standard input until it ends, at `stop`, or at Ctrl-C between answers.

    Ctrl-C during an answer breaks it off; what was given of it stays in the history.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 - it gives `input` a line editor
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # half a character typed, or one the terminal cannot show
    history: list[Turn] = []
    while (question := _read()) not in (None, "stop"):
        if question == "clear":
            history.clear()
            typer.echo("(history cleared)", err=True)
        elif question:
            answer = _answer(model, question, history, params)
            if answer:
                history.append(Turn(question, answer))


def _read() -> str | None:
    """The next line; None at the end of the input, and at Ctrl-C."""
    try:
        return input(PROMPT if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None


def _answer(model: Backend, question: str, history: list[Turn], params: GenerationParams) -> str:
    """Print an answer as it comes; what was printed of it."""
    answer = ""
    try:
        for delta in model.stream(question, history, params):
            answer += delta.text
            typer.echo(delta.text, nl=False)
        typer.echo()
    except KeyboardInterrupt:
        typer.echo()
        typer.echo("(broken off)", err=True)
    except ModelError as error:
        typer.echo(f"error: {error}", err=True)
    return answer
