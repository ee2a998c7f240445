"""What a start of the bot needs, checked one by one: what was found, and what to do about it."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import platform
import shutil
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import aiohttp

from bot.app import App
from bot.backend import examine_model, load_model
from bot.config import LoadedConfig, LogSettings, ModelSettings, ServerSettings, StoreSettings, load_config
from bot.config_connectors import TelegramSettings, WebhookSettings, WecomSettings
from bot.doctor_wecom import check_wecom
from bot.errors import BotError, ConfigError, ConnectorError, ModelError, StoreError
from bot.findings import ANSWER_WITHIN, Finding, http_session, reach
from bot.loader import Failure, Loaded, load_plugins
from bot.logs import Redactor, configure_logging, secret_values
from bot.retrieval import load_encoder
from bot.store import Store
from bot.store.inspection import check_writable, database_file, revisions

MIB = 1 << 20
CHECK_DATABASE = "check the path, its permissions, and what else uses the database"
PLENTY, LITTLE = 1024 * MIB, 100 * MIB
OLDEST_SQLITE = (3, 35)  # RETURNING
_MEND = "mend what it names"
Check = Callable[[LoadedConfig], Coroutine[Any, Any, list[Finding]]]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a start went: plugins that are on, those that are off, and what was complained about."""

    loaded: tuple[Loaded, ...]
    failures: tuple[Failure, ...]
    complaints: tuple[str, ...]


async def rehearse(loaded: LoadedConfig) -> Rehearsal:
    """Start all plugins on a database in memory, without connectors and without the model, and stop again.

    Replaces the configuration of logs. Raises what a start raises.
    """
    config = loaded.config.model_copy(update={"log": LogSettings(level="warning", format="json")})
    lines = io.StringIO()
    configure_logging(config, lines)
    alone = {
        "store": StoreSettings(url="sqlite+aiosqlite:///:memory:"),
        "model": ModelSettings(),
        "connectors": (),
    }
    app = App(replace(loaded, config=config.model_copy(update=alone)), connectors=[], serve=False)
    try:
        await app.start()
        program = app.program
    finally:
        await app.stop()
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    complaints = (
        _complaint(event)
        for event in events
        if event["event"] != "plugin is off"
        and event["logger"] != "bot.watchdog"  # loading may take its time
    )
    return Rehearsal(program.loaded, program.failures, tuple(complaints))


async def examine(file: Path | None, topic: Literal["wecom"] | None = None) -> AsyncIterator[Finding]:
    """Everything, the cheap and fundamental first, or all about one topic.

    Without a usable configuration, that is all there is.
    """
    if topic is None:
        yield _python()
        yield _sqlite()
    try:
        loaded = load_config(file)
        configure_logging(loaded.config, io.StringIO())  # what is wrong becomes a finding
        App(loaded, connectors=[], serve=False)  # plugins' settings and texts
    except BotError as error:
        yield _failed("configuration", error)
        return
    yield Finding("configuration", "ok", str(loaded.file or "built-in defaults (no ./config.yaml)"))
    for warning in loaded.warnings:
        yield Finding("configuration", "warn", warning, "set the variable, or correct the entry")
    hidden = Redactor(secret_values(loaded.config))
    everything = (_database, _plugins, _encoder, _model, _port, _connectors)
    for check in everything if topic is None else (_wecom,):
        for finding in await _guarded(check, loaded):
            yield replace(finding, detail=hidden.text(finding.detail))


async def _guarded(check: Check, loaded: LoadedConfig) -> list[Finding]:
    """A check that breaks is a finding, too."""
    name = check.__name__.strip("_")
    try:
        return await check(loaded)
    except ConfigError as error:
        return [_failed(name, loaded.located(error))]
    except BotError as error:
        return [_failed(name, error)]
    except Exception as error:
        return [
            Finding(name, "fail", f"{type(error).__name__}: {error}", "run it with --debug and report it")
        ]


def _failed(check: str, error: BotError) -> Finding:
    remedy = getattr(error, "remedy", None) or ""
    if isinstance(error, StoreError):
        remedy = CHECK_DATABASE
    return Finding(check, "fail", str(error).removesuffix(f"; {remedy}"), remedy)


def _complaint(fields: dict[str, str]) -> str:
    """A log line in few words."""
    said = [fields[key] for key in ("plugin", "event", "problem", "exception") if fields.get(key)]
    return ": ".join(said)


# -- this machine -----------------------------------------------------------------------------


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Finding("SQLite", "fail", sqlite3.sqlite_version, "use a Python with SQLite 3.35 or newer")
    return Finding("SQLite", "ok", sqlite3.sqlite_version)


async def _database(loaded: LoadedConfig) -> list[Finding]:
    store = Store(loaded.config.store.url)
    file = database_file(store.url)
    disk = [_disk(file.parent)] if file else []
    if file is not None and not file.exists():
        return [_new_database(file), *disk]
    try:
        began = time.monotonic()
        await check_writable(store)
        took = round((time.monotonic() - began) * 1000)
        writable = Finding("database", "ok", f"{file or store.place}, writable, {took} ms")
        return [writable, *disk, await _schema(loaded, store)]
    except StoreError as error:
        remedy = "check the path, its permissions, and what else uses the database"
        return [Finding("database", "fail", f"{file or store.place}: {error}", remedy), *disk]
    finally:
        await store.close()


def _new_database(file: Path) -> Finding:
    if os.access(file.parent, os.W_OK | os.X_OK):
        return Finding("database", "ok", f"{file}, made by the first start")
    return Finding(
        "database", "fail", f"{file.parent} is not writable", "change its permissions or store.url"
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    detail = f"{free // MIB:,} MiB free in {folder}"
    if free >= PLENTY:
        return Finding("disk", "ok", detail)
    return Finding("disk", "warn" if free >= LITTLE else "fail", detail, "make room, or move the database")


async def _schema(loaded: LoadedConfig, store: Store) -> Finding:
    plugins = load_plugins(loaded).loaded
    folders = {item.plugin.name: item.plugin.tables for item in plugins if item.plugin.tables}
    found = await revisions(store, folders)
    strange = [f"{item.owner} ({item.current})" for item in found if not item.known]
    if strange:
        detail = f"made by a newer version: {', '.join(strange)}"
        return Finding("schema", "fail", detail, "install that version, or go back to a backup")
    old = [item.owner for item in found if not item.is_newest]
    if old:
        remedy = "nothing: the next start does it; or run glmbot db upgrade"
        return Finding("schema", "warn", f"to be upgraded: {', '.join(old)}", remedy)
    return Finding("schema", "ok", f"newest: {', '.join(item.owner for item in found)}")


async def _port(loaded: LoadedConfig) -> list[Finding]:
    settings = loaded.config.server
    place = f"{settings.host}:{settings.port}"
    try:
        await asyncio.to_thread(_bind, settings)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and await _is_glmbot(settings):
            return [Finding("port", "ok", f"{place} is served by a running glmbot")]
        return [
            Finding(
                "port", "fail", f"{place}: {error.strerror or error}", "change server.host or server.port"
            )
        ]
    if settings.port == 0:
        return [Finding("port", "ok", f"any free port of {settings.host}")]
    return [Finding("port", "ok", f"{place} is free")]


def _bind(settings: ServerSettings) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)
        tried.listen(1)


async def _is_glmbot(settings: ServerSettings) -> bool:
    try:
        async with http_session() as session, session.get(_local_url(settings, "/healthz")) as response:
            return response.headers.get("Server") == "glmbot"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _local_url(settings: ServerSettings, path: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{path}"


# -- plugins, encoder, model ------------------------------------------------------------------


async def _plugins(loaded: LoadedConfig) -> list[Finding]:
    """A start with what it complains about; FAQ and documents are read by it."""
    began = time.monotonic()
    rehearsal = await rehearse(loaded)
    took = time.monotonic() - began
    names = ", ".join(item.plugin.name for item in rehearsal.loaded) or "none"
    return [
        Finding("plugins", "ok", f"{names}; started in {took:.1f} s"),
        *(
            Finding(
                "plugins",
                "fail",
                f"{item.name} is off: {item.problem}",
                f"mend it, or set plugins.{item.name}.enabled to false",
            )
            for item in rehearsal.failures
        ),
        *(Finding("plugins", "warn", text, _MEND) for text in rehearsal.complaints),
    ]


async def _encoder(loaded: LoadedConfig) -> list[Finding]:
    encoder = load_encoder(loaded.config.retrieval.encoder)
    began = time.monotonic()
    vectors = await asyncio.to_thread(encoder.encode, ["运费是多少？", "What does shipping cost?"])
    took = time.monotonic() - began
    return [Finding("encoder", "ok", f"{encoder.name}, {vectors.shape[1]} dimensions, {took:.1f} s")]


async def _model(loaded: LoadedConfig) -> list[Finding]:
    """A running bot's model is not loaded a second time: both may not fit."""
    settings = loaded.config.model
    if settings.backend == "local" and settings.path is None:
        return [Finding("model", "ok", "no weights configured: answers are extractive")]
    if settings.backend == "openai":
        return (await reach("model", settings.base_url or ""))[:1]
    if await _is_glmbot(loaded.config.server):
        return [await _running_model(loaded.config.server)]
    began = time.monotonic()
    try:
        notices = await asyncio.to_thread(examine_model, loaded)
        model = await asyncio.to_thread(load_model, loaded)
    except ModelError as error:
        return [Finding("model", "fail", str(error).removesuffix(f"; {error.remedy}"), error.remedy or _MEND)]
    if model is None:
        return []
    await model.close()
    detail = f"{model.name}, loaded in {time.monotonic() - began:.1f} s"
    return [Finding("model", "ok", detail), *(Finding("model", "ok", notice) for notice in notices)]


async def _running_model(settings: ServerSettings) -> Finding:
    async with http_session() as session, session.get(_local_url(settings, "/readyz")) as response:
        entry = (await response.json()).get("model", {})
    detail = f"{entry.get('name') or entry.get('problem') or entry.get('state')}, says the running glmbot"
    if entry.get("state") == "ok":
        return Finding("model", "ok", detail)
    if entry.get("state") == "loading":
        return Finding("model", "warn", detail, "ask again when it is ready")
    return Finding("model", "fail", detail, "see its log; stop it and ask again for the whole story")


# -- platforms --------------------------------------------------------------------------------


async def _connectors(loaded: LoadedConfig) -> list[Finding]:
    """Every connector's platform at once, in the order of the configuration."""
    checks: list[Awaitable[list[Finding]]] = []
    local: list[Finding] = []
    wecom: list[WecomSettings] = []
    for item in loaded.config.connectors:
        name = f"{item.type} {item.name}"
        match item:
            case TelegramSettings():
                checks.append(_telegram(name, item))
            case WebhookSettings() if item.reply_url:
                checks.append(reach(name, item.reply_url))
            case _ if isinstance(item, WecomSettings):
                wecom.append(item)
            case _:
                local.append(Finding(name, "ok", "needs no platform"))
    checks.append(check_wecom(wecom, briefly=True))
    return [*local, *(finding for found in await asyncio.gather(*checks) for finding in found)]


async def _wecom(loaded: LoadedConfig) -> list[Finding]:
    wecom = [item for item in loaded.config.connectors if isinstance(item, WecomSettings)]
    if not wecom:
        return [Finding("wecom", "warn", "no connector of WeCom is configured", "add one to connectors")]
    return await check_wecom(wecom)


async def _telegram(name: str, settings: TelegramSettings) -> list[Finding]:
    from bot.connectors.telegram.api import BotApi

    found = await reach(name, settings.api_base)
    if found[0].state == "fail":
        return found
    async with http_session() as session:
        began = time.monotonic()
        try:
            me = await BotApi(settings.api_base, settings.token, session).call("getMe", timeout=ANSWER_WITHIN)
        except ConnectorError as error:
            refused = error.code in (401, 403, 404)
            remedy = "copy the token from @BotFather again" if refused else "try again in a minute"
            return [Finding(name, "fail", error.problem, remedy), *found[1:]]
        took = round((time.monotonic() - began) * 1000)
    bot = me.get("username", "?") if isinstance(me, dict) else "?"
    return [Finding(name, "ok", f"@{bot}, getMe in {took} ms"), *found[1:]]
