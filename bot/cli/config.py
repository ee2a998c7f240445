"""`glmbot config`: check the configuration, print its schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from bot.cli.output import ConfigOption, read_config

if TYPE_CHECKING:
    from bot.config import LoadedConfig
    from bot.loader import Plugins

app = typer.Typer(help="Check the configuration, or print its schema for an editor.", no_args_is_help=True)


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check config.yaml, the plugins' settings and your texts, and show what results.

    References are filled in, defaults shown, secrets hidden. What is wrong is told with file, line and
    remedy, exit code 2. A plugin or model that cannot be loaded is a warning.
    """
    import yaml

    from bot.app import App
    from bot.loader import load_plugins

    loaded = read_config(config)
    plugins = load_plugins(loaded)
    App(loaded, plugins=plugins, connectors=[], serve=False)  # checks the texts
    summary = _resolved(loaded, plugins)
    _tell_about_model(loaded)
    typer.echo(yaml.safe_dump(summary, allow_unicode=True, sort_keys=False, width=110), nl=False)
    typer.echo(f"ok: {loaded.file or 'the built-in defaults, since there is no ./config.yaml'}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of config.yaml, with which editors check and complete it.

    Save it as config.schema.json and begin config.yaml with the line
    # yaml-language-server: $schema=config.schema.json
    """
    from bot.config_schema import config_schema

    typer.echo(json.dumps(config_schema(), ensure_ascii=False, indent=2))


def _tell_about_model(loaded: LoadedConfig) -> None:
    from bot.backend import examine_model
    from bot.errors import ModelError

    try:
        for notice in examine_model(loaded):
            typer.echo(f"notice: model.path: {notice}", err=True)
    except ModelError as error:
        typer.echo(f"warning: model.path: answers will be extractive: {error}", err=True)


def _resolved(loaded: LoadedConfig, plugins: Plugins) -> dict[str, Any]:
    """Everything as it will be used, without secrets."""
    from bot.logs import Redactor, secret_values

    values: dict[str, Any] = loaded.config.model_dump(mode="json")
    values["plugins"] = {
        name: {"enabled": False} for name, entry in loaded.config.plugins.items() if not entry.enabled
    } | {
        item.plugin.name: {"enabled": True, **item.config.model_dump(mode="json")} for item in plugins.loaded
    }
    return dict(Redactor(secret_values(loaded.config))(None, "", values))
