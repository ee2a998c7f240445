"""Finds plugins (built-in, user folders, entry points), loads them and isolates the ones that fail."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import structlog
from pydantic import BaseModel

from bot.config import LoadedConfig, validate_plugin_config
from bot.errors import BotError, ConfigError, PluginError
from bot.inject import Call, Injector, Plan
from bot.message import Message
from bot.plugin import Handler, Plugin
from bot.reply import Reply
from bot.router import Router
from bot.rules import Facts
from bot.store.engine import Step

log = structlog.get_logger(__name__)
PRIVATE_PREFIX = "glmbot_user_plugins"
GROUP = "glmbot.plugins"
BUILT_IN = "built-in"
STARTUP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A place where a plugin may be: a module to import or a file to load."""

    origin: str
    module: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin with its validated config, ready to be planned."""

    plugin: Plugin
    config: BaseModel
    origin: str
    file: Path | None = None

    @property
    def place(self) -> Path | None:
        """The file of a one-file plugin, else its folder."""
        if self.file is None or self.file.name not in ("__init__.py", "plugin.py"):
            return self.file
        return self.file.parent


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that is off, and why."""

    name: str
    origin: str
    problem: str


@dataclass(frozen=True, slots=True)
class Program:
    """Everything that answers messages, planned and compiled; replaced as a whole."""

    router: Router
    plans: Mapping[Handler, Plan]
    middlewares: tuple[Plan, ...]
    answered: tuple[Plan, ...] = ()
    keepers: tuple[Plan, ...] = ()
    hearers: tuple[Plan, ...] = ()
    sayers: tuple[Plan, ...] = ()
    loaded: tuple[Loaded, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def commands(self) -> list[Handler]:
        """Handlers of commands, in the order they are tried."""
        found = (handler for handler in self.plans if handler.kind == "command")
        return sorted(found, key=lambda handler: handler.priority)

    def heard(self, message: Message, facts: Facts) -> Message | None:
        """A message as whoever asked for it gets it; None where a plugin turns it away, or fails at it."""
        for plan in self.hearers:
            try:
                seen: Message | None = plan.call(Call(message, facts=facts))
            except Exception:
                log.exception("a plugin fails at an answer to a question", plugin=plan.handler.plugin)
                return None
            if seen is None:
                return None
            message = seen
        return message

    async def said(self, reply: Reply, call: Call) -> Reply:
        """What is said beside the answer, as it may be sent. Raises what a plugin does that fails at it."""
        for plan in self.sayers:
            reply = await plan.run(replace(call, reply=reply))
        return reply

    def kept(self, text: str) -> str:
        """A text as the history keeps it; without what a plugin fails at, it is not kept at all."""
        for plan in self.keepers:
            try:
                text = plan.call(Call(args=text))
            except Exception:
                log.exception("a plugin fails at what is to be kept", plugin=plan.handler.plugin)
                return ""
        return text

    async def noted(self, call: Call) -> list[Step]:
        """What plugins want committed with an answer, `call.answered`; one that fails has nothing."""
        steps = list[Step]()
        for plan in self.answered:
            try:
                steps += await plan.run(call) or ()
            except Exception:
                log.exception("a plugin cannot note an answer", plugin=plan.handler.plugin)
        return steps

    @property
    def schedules(self) -> list[Plan]:
        """Plans of handlers that run by the clock."""
        return [plan for handler, plan in self.plans.items() if handler.kind == "schedule"]


@dataclass(slots=True)
class Plugins:
    """What was found and could be configured, before anything is started."""

    loaded: list[Loaded] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def drop(self, name: str, problem: str) -> None:
        """Switch a plugin off; the others never notice."""
        for item in [item for item in self.loaded if item.plugin.name == name]:
            self.loaded.remove(item)
            self.fail(name, item.origin, problem)

    def fail(self, name: str, origin: str, problem: str) -> None:
        """Note a plugin that is off."""
        self.failures.append(Failure(name, origin, problem))
        log.error("plugin is off", plugin=name, origin=origin, problem=problem)


def find_plugins(folders: Iterable[Path]) -> Iterator[Found]:
    """Built-in plugins, then entry points of the group `glmbot.plugins`, then the user's folders."""
    package = importlib.util.find_spec("plugins")
    for location in (package.submodule_search_locations or ()) if package else ():
        for info in pkgutil.iter_modules([location]):
            if info.ispkg:
                yield Found(BUILT_IN, f"plugins.{info.name}.plugin")
    for point in entry_points(group=GROUP):
        yield Found(f"entry point {point.name}", point.value.partition(":")[0])
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.name.startswith((".", "_", "test_")) or path.name in ("conftest.py", "tests"):
                continue  # plugins lie beside their tests
            if path.suffix == ".py" and path.is_file():
                yield Found(str(path), f"{PRIVATE_PREFIX}.{path.stem}", path)
            elif (path / "__init__.py").is_file():
                yield Found(str(path), f"{PRIVATE_PREFIX}.{path.name}", path / "__init__.py")


def load_plugins(config: LoadedConfig) -> Plugins:
    """Import and configure every plugin that is enabled; a broken one becomes a Failure.

    A wrong setting of a built-in plugin is a mistake in config.yaml and raises ConfigError, and so does one
    for a plugin that does not exist; a plugin from elsewhere is off then, and the bot goes on without it.
    """
    plugins = Plugins()
    seen: dict[str, str] = {}
    for found in find_plugins(config.config.plugin_folders):
        module = _import(found, plugins)
        file = Path(module.__file__) if module and module.__file__ else None
        for plugin in _plugins_in(module) if module else ():
            if plugin.name in seen:
                plugins.fail(plugin.name, found.origin, f"the name is taken by {seen[plugin.name]}")
                continue
            seen[plugin.name] = found.origin
            if config.config.plugin(plugin.name).enabled:
                try:
                    settings = validate_plugin_config(plugin.config, config, plugin.name)
                except ConfigError as error:
                    if found.origin == BUILT_IN:
                        raise
                    plugins.fail(plugin.name, found.origin, str(error))
                    continue
                plugins.loaded.append(Loaded(plugin, settings, found.origin, file))
    known = {*seen, *(failure.name for failure in plugins.failures)}
    for name in config.config.plugins:
        if name not in known:
            raise config.error(
                ("plugins", name),
                f"there is no plugin {name!r}",
                f"known plugins: {', '.join(sorted(known))}",
            )
    return plugins


def compile_program(plugins: Plugins, injector: Injector) -> Program:
    """Plan every handler and build the router; a plugin whose signature cannot be served is dropped."""
    plans: dict[Handler, Plan] = {}
    for item in list(plugins.loaded):
        try:
            planned = {handler: injector.plan(handler, item.config) for handler in item.plugin.handlers}
        except ConfigError:
            raise
        except BotError as error:
            plugins.drop(item.plugin.name, str(error))
        else:
            plans.update(planned)
    middlewares = sorted(
        (plan for handler, plan in plans.items() if handler.kind == "middleware"),
        key=lambda plan: plan.handler.priority,
    )
    return Program(
        Router(plans),
        plans,
        tuple(middlewares),
        tuple(plan for handler, plan in plans.items() if handler.kind == "answered"),
        tuple(plan for handler, plan in plans.items() if handler.kind == "kept"),
        tuple(plan for handler, plan in plans.items() if handler.kind == "heard"),
        tuple(plan for handler, plan in plans.items() if handler.kind == "said"),
        tuple(plugins.loaded),
        tuple(plugins.failures),
    )


async def start_plugins(plugins: Plugins, program: Program, injector: Injector) -> Program:
    """Run the startup handlers; a plugin that fails is dropped and the rest compiled again."""
    failed = False
    for item in list(plugins.loaded):
        for handler in item.plugin.handlers:
            if handler.kind != "startup":
                continue
            try:
                async with asyncio.timeout(STARTUP_SECONDS):
                    await program.plans[handler].run(Call())
            except ConfigError:
                raise
            except (Exception, SystemExit) as error:
                log.debug("startup failed", plugin=item.plugin.name, exc_info=True)
                plugins.drop(item.plugin.name, f"startup failed: {type(error).__name__}: {error}")
                failed = True
                break
    return compile_program(plugins, injector) if failed else program


async def stop_plugins(program: Program) -> None:
    """Run the shutdown handlers, each whatever the others do."""
    for handler, plan in program.plans.items():
        if handler.kind == "shutdown":
            try:
                await plan.run(Call())
            except Exception:
                log.exception("shutdown of a plugin failed", plugin=handler.plugin)


def _import(found: Found, plugins: Plugins) -> ModuleType | None:
    """The module, if it can be imported and holds a plugin; else a Failure is noted."""
    name = found.module.removesuffix(".plugin").rpartition(".")[2]
    try:
        module = _load_file(found) if found.file else importlib.import_module(found.module)
        if not _plugins_in(module):
            raise PluginError(name, "the module defines no Plugin; write `plugin = Plugin(...)`")
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        plugins.fail(name, found.origin, problem)
        return None
    return module


def _plugins_in(module: ModuleType) -> list[Plugin]:
    """The plugins a module defines, or those of a package's `plugin` module."""
    held = [value for value in vars(module).values() if isinstance(value, Plugin)]
    submodule = getattr(module, "plugin", None)
    if not held and isinstance(submodule, ModuleType):
        held = [value for value in vars(submodule).values() if isinstance(value, Plugin)]
    return list(dict.fromkeys(held))


def _load_file(found: Found) -> ModuleType:
    """Load a user's file under the private prefix, so that its name cannot hide an installed module."""
    assert found.file is not None
    if PRIVATE_PREFIX not in sys.modules:
        sys.modules[PRIVATE_PREFIX] = ModuleType(PRIVATE_PREFIX)
    package = [str(found.file.parent)] if found.file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        found.module, found.file, submodule_search_locations=package
    )
    if spec is None or spec.loader is None:
        raise PluginError(found.module, f"{found.file} is not a Python file")
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_within(name, found.module)}
    module = importlib.util.module_from_spec(spec)
    sys.modules[found.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in [name for name in sys.modules if _is_within(name, found.module)]:
            del sys.modules[name]
        sys.modules.update(before)  # those who loaded it earlier go on with it
        raise
    return module


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
