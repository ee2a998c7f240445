"""config.yaml: what may stand in it, what it means when it does not, and how it is read.

The keys are those of the outside contract; unknown keys are errors with file, line and the nearest known key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bot.config_connectors import (
    AnyConnector,
    ConnectorSettings,
    Respond,
    Section,
    SessionStrategy,
    WebchatSettings,
    WebhookSettings,
    WecomAibotSettings,
    check_connectors,
    switched_off,
)
from bot.config_errors import config_error, nearest, wrong
from bot.config_values import (
    Backend,
    BaseUrl,
    Bytes,
    ConfigPath,
    Count,
    EncoderName,
    Identity,
    LocalText,
    NewPath,
    NonEmpty,
    Port,
    RateText,
    Seconds,
    Secret,
    Size,
    StoreUrl,
    TimeZone,
)
from bot.errors import ConfigError
from bot.yaml_source import KeyPath, YamlSource, dotted, load_yaml

DEFAULT_FILE = Path("config.yaml")
PluginModel = TypeVar("PluginModel", bound=BaseModel)


class ServerSettings(Section):
    """Where the HTTP server listens, the bearer for /metrics and the admin API, the largest body (bytes)."""

    host: NonEmpty = "127.0.0.1"
    port: Port = 8080
    admin_token: Secret | None = None
    max_body: Bytes = 1 << 20


class StoreSettings(Section):
    """The database, days that rows stay, and what a commit survives (full: power loss too)."""

    url: StoreUrl = Field("sqlite+aiosqlite:///glmbot.db", repr=False, validate_default=True)
    retention_days: Count = 90
    synchronous: Literal["normal", "full"] = "normal"


class HistorySettings(Section):
    """How much of a talk goes into the prompt: tokens and rounds."""

    budget: Count = 768
    rounds: Count = 20


class DispatchSettings(Section):
    """Handlers at once, messages waiting for one, seconds a handler may take."""

    workers: Count = 64
    queue: Count = 10_000
    deadline: Seconds = 60.0


class ApiSettings(Section):
    """OpenAI's API and ChatGLM-6B's own on the bot's server; there only where there are keys for it.

    max_per_key: requests of a key at a time, which take turns as one user of the model.
    """

    keys: tuple[Secret, ...] = ()
    keys_file: NewPath | None = None
    max_per_key: Count = 16


class ModelSettings(Section):
    """The language model: in process (`local`), or any compatible server (`openai`)."""

    model_config = ConfigDict(protected_namespaces=())

    backend: Backend = "local"
    path: ConfigPath | None = None
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    quantization: Literal["int4", "int8", "none"] = "int4"
    kv_cache: Literal["auto", "fp16", "int8", "int4"] = "auto"
    max_context: Count = 2048
    max_new_tokens: Count = 512
    max_running: Count = 64
    max_per_user: Count = 2
    memory: Size | None = None
    api: ApiSettings = ApiSettings()
    prefixes: dict[NonEmpty, ConfigPath] = Field({})
    base_url: BaseUrl | None = None
    api_key: Secret | None = None
    name: NonEmpty | None = None

    @model_validator(mode="after")
    def _fits(self) -> ModelSettings:
        if self.backend == "openai" and not (self.base_url and self.name):
            missing = "base_url" if not self.base_url else "name"
            raise wrong(f"backend openai needs {missing}", f"add {missing}: ...")
        if self.max_new_tokens >= self.max_context:
            raise wrong(
                "max_new_tokens must be less than max_context", "lower it: the question needs room too"
            )
        return self


class PluginSettings(BaseModel):
    """One plugin's entry: `enabled`, and its own settings, which its own model checks later."""

    model_config = ConfigDict(frozen=True, extra="allow")

    enabled: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The plugin's own keys as they stand in the file, references filled in."""
        return dict(self.model_extra or {})


def _empty_if_null(value: Any) -> Any:
    return {} if value is None else value


class GroupSettings(Section):
    """When the bot speaks in groups, and whose messages make one session."""

    respond: Respond = "mention"
    wake_words: tuple[NonEmpty, ...] = ()
    session: SessionStrategy = "user-in-chat"


class RoleSettings(Section):
    """Who is admin or agent, as `connector:user_id`."""

    admins: tuple[Identity, ...] = ()
    agents: tuple[Identity, ...] = ()


class LimitSettings(Section):
    """How many messages one user or one group may send; None is off."""

    per_user: RateText | None = None
    per_group: RateText | None = None


class RetrievalSettings(Section):
    """The encoder of dense retrieval, and the folder where its vectors are kept."""

    encoder: EncoderName = "fuse"
    cache: NewPath | None = None


class LogSettings(Section):
    """Least level shown; format auto is console on a terminal, else json."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(Section):
    """All of config.yaml."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    history: HistorySettings = HistorySettings()
    dispatch: DispatchSettings = DispatchSettings()
    model: ModelSettings = ModelSettings()
    plugins: dict[NonEmpty, Annotated[PluginSettings, BeforeValidator(_empty_if_null)]] = Field({})
    plugin_folders: tuple[ConfigPath, ...] = ()
    groups: GroupSettings = GroupSettings()
    roles: RoleSettings = RoleSettings()
    staff_chats: tuple[Identity, ...] = ()
    limits: LimitSettings = LimitSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    language: Literal["auto", "zh", "en"] = "auto"
    timezone: TimeZone | None = None
    contact: LocalText | None = None
    messages: dict[NonEmpty, LocalText] = Field({})
    log: LogSettings = LogSettings()
    connectors: tuple[AnyConnector, ...] = (WebchatSettings(name="site"),)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_sections(cls, data: Any) -> Any:
        """A key whose lines are all commented out has its default; the store is there to resolve its path."""
        if not isinstance(data, dict):
            return data
        return {"store": {}, **{key: value for key, value in data.items() if value is not None}}

    def groups_for(self, connector: ConnectorSettings) -> GroupSettings:
        """The group rules of one connector: its own where given, else the top level's."""
        return self.groups.model_copy(update=connector.groups.model_dump(exclude_none=True))

    def plugin(self, name: str) -> PluginSettings:
        """A plugin's entry; one without settings where the file does not name it."""
        return self.plugins.get(name) or PluginSettings()


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A checked configuration, where it came from, and what the operator should be told once."""

    config: Config
    source: YamlSource
    warnings: tuple[str, ...] = ()

    @property
    def file(self) -> Path | None:
        """The file, None for the built-in defaults."""
        return self.source.file

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self.source.base

    @property
    def vector_cache(self) -> Path | None:
        """Where vectors are cached: as configured, else beside an SQLite file; None is in memory only."""
        if self.config.retrieval.cache is not None:
            return self.config.retrieval.cache
        scheme, _, name = self.config.store.url.partition("?")[0].partition(":///")
        if not scheme.startswith("sqlite") or name in ("", ":memory:") or name.startswith("file:"):
            return None
        return Path(name).with_name(f"{Path(name).stem}-vectors")

    def error(self, path: KeyPath, problem: str, remedy: str | None = None) -> ConfigError:
        """For checks made elsewhere: an error that names the file and the line of `path`."""
        return self.source.error(path, problem, remedy)

    def located(self, error: ConfigError) -> ConfigError:
        """An error that knows its key only (`messages.hello`), with the file and the line of that key."""
        path = next((path for path in self.source.lines if dotted(path) == error.key), None)
        if error.file is not None or path is None:
            return error
        return self.source.error(path, error.problem, error.remedy)


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None) -> LoadedConfig:
    """Read `path`, else ./config.yaml where it exists, else take the defaults. Raises ConfigError."""
    if path is None:
        path = DEFAULT_FILE if DEFAULT_FILE.exists() else None
    source = load_yaml(path, environ) if path else YamlSource(None)
    try:
        config = Config.model_validate(source.data, context={"base": source.base})
    except ValidationError as error:
        raise config_error(error, Config, source) from None
    check_connectors(config.connectors, source)
    off = switched_off(config.connectors, source)
    warnings = [
        f"connector {config.connectors[index].name!r} is off: the environment variable {variable} is not set"
        for index, variable in off.items()
    ]
    warnings += [*_strangers(config), *_deaf_staff(config)]
    kept = tuple(item for index, item in enumerate(config.connectors) if index not in off)
    return LoadedConfig(config.model_copy(update={"connectors": kept}), source, tuple(warnings))


def validate_plugin_config(model: type[PluginModel], loaded: LoadedConfig, plugin_name: str) -> PluginModel:
    """Check a plugin's settings by its own model; raises ConfigError with file, line and nearest key.

    `ConfigPath` fields come back absolute. Written ones must exist; default lists keep those that do.
    """
    settings = loaded.config.plugin(plugin_name).settings
    try:
        config = model.model_validate(settings, context={"base": loaded.base})
    except ValidationError as error:
        raise config_error(error, model, loaded.source, ("plugins", plugin_name)) from None
    defaults = model.model_fields.keys() - config.model_fields_set
    return config.model_copy(
        update={name: _default_path(getattr(config, name), loaded.base) for name in defaults}
    )


def _strangers(config: Config) -> Iterator[str]:
    """Warnings for identities that name no connector: a typo there would silently lose an admin."""
    names = {item.name for item in config.connectors} | {"console"}
    lists: dict[KeyPath, tuple[str, ...]] = {
        ("roles", "admins"): config.roles.admins,
        ("roles", "agents"): config.roles.agents,
        ("staff_chats",): config.staff_chats,
    }
    for path, identities in lists.items():
        for index, identity in enumerate(identities):
            name = identity.partition(":")[0]
            if name not in names:
                yield f"{dotted((*path, index))}: no connector is named {name!r}; {nearest(name, names)}"


def _deaf_staff(config: Config) -> Iterator[str]:
    """Warnings for staff chats on connectors that only answer: nobody there would hear of a hand-over."""
    answering = {
        item.name
        for item in config.connectors
        if isinstance(item, WecomAibotSettings)
        or (isinstance(item, WebhookSettings) and item.reply_url is None)
    }
    for index, chat in enumerate(config.staff_chats):
        name = chat.partition(":")[0]
        if name in answering:
            yield (
                f"{dotted(('staff_chats', index))}: connector {name!r} cannot speak first, staff there would"
                " hear nothing; name a chat of another connector"
            )


def _default_path(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, list | tuple) and value and all(isinstance(item, Path) for item in value):
        return type(value)(base / item for item in value if (base / item).exists())
    return value
