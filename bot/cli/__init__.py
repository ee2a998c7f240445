"""The command line `glmbot`: `main` is its entry point, `app` the typer application behind it."""

from bot.cli.root import app, main

__all__ = ["app", "main"]
