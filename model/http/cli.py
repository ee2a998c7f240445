"""`glmbot model serve` and `glmbot model key`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from model.http import TIMEOUT
from model.options import (
    DeviceOption,
    KVOption,
    MaxContextOption,
    MaxNewTokensOption,
    MaxPerUserOption,
    MaxRunningOption,
    MemoryOption,
    PrefixOption,
    QuantizationOption,
    Settings,
    prefix_paths,
)
from model.terminal import console, log_to_stderr
from model.types import ModelError

if TYPE_CHECKING:
    from model.http.embeddings import Encoder

ENCODERS = "glmbot.encoders"
"""The entry-point group of what returns an encoder when it is called."""
KEYS = Path("model-keys.json")
VARIABLE = "GLMBOT_API_KEY"
KeysOption = Annotated[
    Path, typer.Option("--keys", metavar="FILE", help="Where the API keys are; `new` creates it.")
]
MadeKeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", help=f"API keys of `glmbot model key` (default: {KEYS}, if it is there)."
    ),
]
Name = Annotated[str, typer.Argument(help="Letters, digits, dots, dashes, underscores.", metavar="NAME")]

key = typer.Typer(
    help="Create, list and revoke the API keys of `glmbot model serve`, also while it runs.",
    no_args_is_help=True,
)


def serve(
    path: Annotated[Path, typer.Argument(help="A folder or file of any model.", metavar="PATH")] = Path(
        "chatglm-6b"
    ),
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; other than this machine needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar=VARIABLE,
            show_envvar=True,
            help="Who has it may ask; may be repeated. Others see it in the list of processes.",
        ),
    ] = None,
    keys: MadeKeysOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model (default: its own name).")
    ] = None,
    device: DeviceOption = "auto",
    quantization: QuantizationOption = "int4",
    kv_cache: KVOption = "auto",
    prefix: PrefixOption = None,
    max_new_tokens: MaxNewTokensOption = 512,
    max_context: MaxContextOption = 2048,
    max_running: MaxRunningOption = 64,
    max_per_user: MaxPerUserOption = 16,
    memory: MemoryOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for an answer, waiting included.")
    ] = TIMEOUT,
) -> None:
    """Answer over HTTP: OpenAI's API at /v1, ChatGLM-6B's own at POST /; Ctrl-C ends it.

    Without API keys whoever is on this machine may ask, programs in browsers excepted.
    """
    import asyncio

    from model.http import server
    from model.http.faces import Faces
    from model.http.keys import Keys
    from model.local import create

    log_to_stderr()
    admitted = Keys(_given(api_key or ()), _made(keys))
    server.check_host(host, admitted)
    if name is not None and not name.strip():
        raise ModelError("--name is empty", remedy="leave it out for the model's own name")
    prefixes = prefix_paths(prefix or ())
    max_new_tokens = min(max_new_tokens, max_context // 2)  # the rest is for questions
    began = monotonic()
    settings = Settings(
        path,
        device,
        quantization,
        kv_cache,
        max_context,
        max_new_tokens,
        prefixes,
        max_running=max_running,
        max_per_user=max_per_user,
        memory=None if memory is None else int(memory * 1e9),
    )
    with console().status("Loading"):
        model = create(settings)
    typer.echo(f"{model.name}, loaded in {monotonic() - began:.1f} s", err=True)
    faces = Faces(
        model,
        keys=admitted,
        encoder=load_encoder(),
        name=name,
        prefixes=prefixes,
        max_new_tokens=max_new_tokens,
        timeout=timeout,
    )
    collector = getattr(model, "registry", None)  # of an engine that counts
    listening = server.ModelServer(faces, host=host, port=port, collector=collector)
    asyncio.run(server.serve(listening, model))


@key.command()
def new(
    name: Name,
    keys: KeysOption = KEYS,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Requests a minute (default: no limit).")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Tokens a minute, prompts included (default: no limit)."),
    ] = None,
) -> None:
    """Create a key and print it: only its hash is kept, so nobody can read it later."""
    from model.http.keys import KeyFile

    typer.echo(KeyFile(keys).create(name, requests_per_minute=requests, tokens_per_minute=tokens))


@key.command("list")
def list_keys(keys: MadeKeysOption = None) -> None:
    """Tell names, dates and limits."""
    from model.http.keys import KeyFile

    found = KeyFile(_made(keys)).read()
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        limits = [
            f"{most} {what} a minute"
            for most, what in (
                (entry.requests_per_minute, "requests"),
                (entry.tokens_per_minute, "tokens"),
            )
            if most
        ]
        typer.echo(f"{entry.name:<{width}}  {entry.created:%Y-%m-%d}  {', '.join(limits) or 'no limit'}")


@key.command()
def revoke(name: Name, keys: KeysOption = KEYS) -> None:
    """Take a key's rights away; servers that run notice at the next request."""
    from model.http.keys import KeyFile

    KeyFile(keys).revoke(name)
    typer.echo(f"{name}: revoked", err=True)


def load_encoder() -> Encoder | None:
    """What is installed as `default` in the group glmbot.encoders; None where that is nothing that loads."""
    import structlog

    for point in entry_points(group=ENCODERS, name="default"):
        try:
            encoder: Encoder = point.load()()
        except Exception as error:  # somebody else's code: answers go on without it
            structlog.get_logger(__name__).warning("no embeddings", encoder=point.value, reason=str(error))
        else:
            return encoder
    return None


def _given(tokens: Sequence[str]) -> Sequence[str]:
    """Those of --api-key or its variable; an empty variable is as unset to the command line, but not here."""
    return tokens or ([""] if VARIABLE in os.environ else [])


def _made(keys: Path | None) -> Path:
    """The file that --keys names, which must be there, or else the usual one, which need not."""
    if keys is not None and not os.path.exists(keys):
        remedy = f"check the path, or create a key first: glmbot model key new NAME --keys {keys}"
        raise ModelError("there is no such file of API keys", file=keys, remedy=remedy)
    return KEYS if keys is None else keys
