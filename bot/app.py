"""Wires everything together: from a checked configuration to a running bot, and back down in order."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from bot.backend import api_routes, is_configured, load_on_thread
from bot.background import Background
from bot.catalogue import Catalogue
from bot.channels import Channels
from bot.config import LoadedConfig
from bot.connectors.base import Connector
from bot.desk import Desk
from bot.dispatch import Dispatch, Place
from bot.errors import BotError, ConfigError, ModelError, StoreError
from bot.inject import Call, Injector
from bot.late_model import LateModel, name_of
from bot.loader import Plugins, Program, compile_program, load_plugins, start_plugins, stop_plugins
from bot.memory import Memory
from bot.metrics import Measured, Metrics
from bot.outbox import Outbox
from bot.platforms import build_connectors
from bot.plugin import Commands
from bot.retention import keep_tidy
from bot.retrieval import Encoder, Index, load_encoder
from bot.scheduler import Scheduler
from bot.server import Server
from bot.store import Audit, History, Store, Tally
from bot.store.inbox import Inbox
from bot.store.migrations import upgrade
from bot.store.outbox import OutboxTable
from bot.watchdog import LoopWatchdog
from model.types import ChatModel, Fallible, InProcess

log = structlog.get_logger(__name__)
DRAIN_SECONDS = 25.0


class App:
    """One bot. `connectors` and `model` may be handed in instead of built from the configuration (tests)."""

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        connectors: Sequence[Connector] | None = None,
        model: ChatModel | None = None,
        plugins: Plugins | None = None,
        encoder: Encoder | None = None,
        serve: bool = True,
    ) -> None:
        self.config = loaded.config
        self.metrics = Metrics()
        self.catalogue = _catalogue(loaded)
        self.model = model
        self.store = Store(self.config.store.url, synchronous=self.config.store.synchronous)
        self.history = History(self.store)
        self.ready = False
        self._inbox = Inbox(self.store)
        self._loading = model is None
        self._model_problem = ""
        self._uncounted: Callable[[], None] = lambda: None
        self._loaded = loaded
        self._given = connectors
        self._serve = serve
        self._encoder = encoder
        self._indexes: dict[str, Index] = {}
        self._background: dict[str, Background] = {}
        self._memories: dict[str, Memory] = {}
        self._plugins = plugins if plugins is not None else load_plugins(loaded)
        self._injector = Injector(self._services())
        self._stopping = False
        self._reloading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.connectors: list[Connector] = []
        self.dispatch: Dispatch
        self.outbox: Outbox
        self.server: Server | None = None
        self._scheduler = Scheduler(self.config.timezone)
        self._watchdog: LoopWatchdog | None = None

    @property
    def program(self) -> Program:
        """What answers messages now."""
        return self.dispatch.program

    async def start(self) -> None:
        """Bring everything up: HTTP first, since a model may load for minutes, and connectors last.

        Until a connector starts, its routes answer 503. What a crash left behind is taken up before.

        Raises ConfigError, StoreError. What was started before an error is taken down again.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        began = time.monotonic()
        await upgrade(self.store)
        await self._upgrade_plugins()
        self.store.start()
        self.connectors = list(self._given if self._given is not None else await self._build_connectors())
        late: LateModel | None = None
        if self._serve:
            late = LateModel(name_of(self.config.model, self.model), self.config.model.max_context)
            talks = self.model is not None or is_configured(self._loaded)
            routes = api_routes(self._loaded, late if talks else None, self._encoder)
            self.server = Server(self.config.server, self.connectors, self.health, self.metrics, routes)
            await self.server.start()
        if self.model is None:
            self.model = await self._load_model()
        self._loading = False
        if late is not None:
            late.arrive(self.model)
        if isinstance(self.model, Measured):
            self._uncounted = self.metrics.include(self.model.registry)
        self._open_channels()
        self._wire(compile_program(self._plugins, self._injector))
        self.dispatch.program = await start_plugins(self._plugins, self.program, self._injector)
        self._schedule()
        self._scheduler.start()
        unsent = await self.outbox.recover()
        unanswered = await self.dispatch.recover()
        if unsent or unanswered:
            log.info("taken up from before", unanswered=unanswered, unsent=unsent)
        for connector in self.connectors:
            await connector.start(self.dispatch)
        self._tasks.append(asyncio.create_task(keep_tidy(self._desk, self.config.store.retention_days)))
        self.ready = True
        log.info(
            "ready",
            seconds=round(time.monotonic() - began, 2),
            connectors=[connector.name for connector in self.connectors],
            model=self.model.name if self.model else "extractive",
        )

    async def stop(self) -> None:
        """Take nothing new, answer what was accepted, send the answers, then close; once."""
        if self._stopping:
            return
        self._stopping = True
        self.ready = False
        for connector in self.connectors:
            await _quietly(connector.stop, "stopping a connector")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._scheduler.stop()
        if hasattr(self, "dispatch"):
            if not await self.dispatch.drain(DRAIN_SECONDS):
                log.warning("unanswered messages stay in the inbox for the next start")
            if not await self.outbox.drain(DRAIN_SECONDS):
                log.warning("unsent answers stay in the outbox for the next start")
            await stop_plugins(self.program)
        for background in self._background.values():
            await background.stop()
        for connector in self.connectors:
            await _quietly(connector.close, "closing a connector")
        if self.server is not None:
            await _quietly(self.server.stop, "stopping the server")
        if self._watchdog is not None:
            self._watchdog.stop()
        if self.model is not None:
            self._uncounted()
            await _quietly(self.model.close, "closing the model")
        await self.store.close()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT (a second one ends at once); SIGHUP reloads plugins."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def on_signal() -> None:
            if asked.is_set():
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.raise_signal(signal.SIGINT)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        starting = loop.create_task(self.start())
        waiting = loop.create_task(asked.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await asyncio.gather(starting, return_exceptions=asked.is_set())
        gc.collect()
        gc.freeze()  # else each full collection walks all of torch, and everybody waits a tenth of a second
        await waiting
        log.info("stopping")
        await self.stop()

    def _on_hangup(self) -> None:
        if not self.ready:
            log.warning("reload ignored: the bot is starting or stopping")
            return
        self._tasks.append(asyncio.create_task(self.reload()))
        self._tasks[-1].add_done_callback(self._tasks.remove)

    async def reload(self) -> None:
        """Load plugins and their files again; when one is broken that was not before, all old ones stay."""
        async with self._reloading:
            try:
                plugins = await asyncio.to_thread(load_plugins, self._loaded)
                news = {item.name: item.problem for item in plugins.failures}
                for failure in self.program.failures:
                    news.pop(failure.name, None)
                if news:
                    log.error("reload refused, the old plugins stay", broken=news)
                    return
                await self._swap(plugins)
            except (BotError, OSError) as error:
                log.error("reload failed", problem=str(error))

    async def _swap(self, plugins: Plugins) -> None:
        """Put other plugins in the place of the running ones."""
        before, self._plugins = self._plugins, plugins
        ending, self._background = self._background, {}
        try:
            await self._upgrade_plugins()
            program = compile_program(plugins, self._injector)
        except BaseException:
            self._plugins, self._background = before, ending
            raise
        await stop_plugins(self.program)
        for background in ending.values():
            await background.stop()
        self.dispatch.program = await start_plugins(plugins, program, self._injector)
        self._schedule()
        self._folders.clear()
        self._folders.update(_folders(self.program))
        log.info("plugins reloaded", failed=[failure.name for failure in self.program.failures])

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """(fit to serve, one entry each) for /readyz."""
        try:
            async with asyncio.timeout(2.0):
                await self.store.probe()
                waiting = await self._inbox.count_open()
            store = {"state": "ok", "unanswered": waiting}
        except (TimeoutError, StoreError) as error:
            store = {"state": "down", "detail": str(error) or "no answer within 2 s"}
        state = "ok" if self.ready else "stopping" if self._stopping else "starting"
        report = {
            "state": state,
            "store": store,
            "model": self._model_state(),
            "connectors": {
                item.name: {"type": item.kind, "state": item.status.state, "detail": item.status.detail}
                for item in self.connectors
            },
            "plugins": {
                **{item.name: {"state": "off"} for item in self._plugins.failures},  # why is in the log
                **{item.plugin.name: {"state": state} for item in self._plugins.loaded},
            },
        }
        return self.ready and store["state"] == "ok", report

    def _model_state(self) -> dict[str, str]:
        if isinstance(self.model, Fallible) and self.model.problem:
            return {"state": "failed", "problem": self.model.problem}
        if self.model is not None:
            kernels = {"kernels": self.model.kernels} if isinstance(self.model, InProcess) else {}
            return {"state": "ok", "name": self.model.name, **kernels}
        if self._loading:
            return {"state": "loading"}
        if self._model_problem:
            return {"state": "failed", "problem": self._model_problem}  # its file is in the log
        return {"state": "extractive"}

    # -- building ---------------------------------------------------------------------------

    async def _build_connectors(self) -> list[Connector]:
        return await build_connectors(
            self.config,
            store=self.store,
            catalogue=self.catalogue,
            metrics=self.metrics,
            commands=lambda: [(handler.names[0], handler.help) for handler in self.program.commands],
        )

    def _open_channels(self) -> None:
        connectors = {(item.kind, item.name): item for item in self.connectors}
        self._outbox_table = OutboxTable(self.store)
        self.outbox = Outbox(self._outbox_table, connectors, self.metrics)
        self._channels = Channels(
            self.store, self.outbox, self.catalogue, connectors, self.config.staff_chats
        )

    def _wire(self, program: Program) -> None:
        places = {
            (connector.kind, connector.name): Place(connector, self._groups(connector))
            for connector in self.connectors
        }
        self._desk = Desk(
            store=self.store,
            inbox=self._inbox,
            outbox=self.outbox,
            outbox_table=self._outbox_table,
            history=self.history,
            catalogue=self.catalogue,
            metrics=self.metrics,
            model=self.model,
            deadline=self.config.dispatch.deadline,
            history_budget=self.config.history.budget,
            history_rounds=self.config.history.rounds,
        )
        self.dispatch = Dispatch(self._desk, program, places, self.config)
        self.metrics.lanes.set_function(lambda: self.dispatch.lanes)
        self.metrics.inbox_pending.set_function(lambda: self.dispatch.pending)
        self.metrics.outbox_pending.set_function(lambda: self.outbox.pending)
        self._folders = _folders(program)
        self._watchdog = LoopWatchdog(self.metrics, folders=self._folders, current=self._desk.current)
        self._watchdog.start()

    def _groups(self, connector: Connector) -> Any:
        for item in self.config.connectors:
            if item.name == connector.name:
                return self.config.groups_for(item)
        return self.config.groups

    def _services(self) -> Mapping[type, Callable[[str], Any]]:
        return {
            Index: self._index,
            Store: lambda plugin: self.store,
            History: lambda plugin: self.history,
            Tally: lambda plugin: Tally(self.store),
            Audit: lambda plugin: Audit(self.store),
            Metrics: lambda plugin: self.metrics,
            Catalogue: lambda plugin: self.catalogue,
            Channels: lambda plugin: self._channels,
            ChatModel: lambda plugin: self.model,
            Background: lambda plugin: self._background.setdefault(plugin, Background(plugin)),
            Memory: lambda plugin: self._memories.setdefault(plugin, Memory()),
            Commands: lambda plugin: Commands(lambda: self.program.commands),
        }

    def _index(self, plugin: str) -> Index:
        if plugin not in self._indexes:
            kind = next(item.plugin.index for item in self._plugins.loaded if item.plugin.name == plugin)
            self._encoder = self._encoder or load_encoder(self.config.retrieval.encoder)
            self._indexes[plugin] = Index(kind, encoder=self._encoder, cache=self._loaded.vector_cache)
        return self._indexes[plugin]

    async def _upgrade_plugins(self) -> None:
        """Bring plugins' tables up to date; one whose revisions fail is off."""
        for item in list(self._plugins.loaded):
            if item.plugin.tables is not None:
                try:
                    await upgrade(self.store, {item.plugin.name: item.plugin.tables})
                except StoreError as error:
                    self._plugins.drop(item.plugin.name, error.problem)

    async def _load_model(self) -> ChatModel | None:
        """The configured model; None for extractive answers, also where it cannot be loaded."""
        try:
            return await load_on_thread(self._loaded)
        except ConfigError:
            raise
        except ModelError as error:
            self._model_problem = error.problem
            log.error("no model, answers are extractive", key="model.path", problem=str(error))
        except Exception as error:
            self._model_problem = type(error).__name__
            log.exception("no model, answers are extractive", key="model.path")
        return None

    def _schedule(self) -> None:
        self._scheduler.clear()
        for number, plan in enumerate(self.program.schedules):
            handler = plan.handler
            name = f"{handler.plugin}:{handler.function.__qualname__}:{number}"
            job = functools.partial(plan.run, Call())
            try:
                self._scheduler.add(
                    name, handler.names[0], job, plugin=handler.plugin, timezone=handler.timezone
                )
            except ConfigError as error:
                log.error("a schedule is off", plugin=handler.plugin, problem=str(error))


def _folders(program: Program) -> dict[Path, str]:
    """Which plugin a file or folder belongs to."""
    return {item.place: item.plugin.name for item in program.loaded if item.place}


def _catalogue(loaded: LoadedConfig) -> Catalogue:
    """The catalogue with the operator's texts; `contact` is one of them."""
    texts: dict[str, Mapping[Any, str] | str] = {**loaded.config.messages}
    if loaded.config.contact is not None:
        texts["contact"] = loaded.config.contact
    try:
        return Catalogue.load(texts)
    except ConfigError as error:
        raise loaded.located(error) from error


async def _quietly(step: Callable[[], Any], doing: str) -> None:
    try:
        await step()
    except Exception:
        log.exception(f"{doing} failed")
