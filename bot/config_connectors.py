"""The connectors' entries in config.yaml, and what holds between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from bot.config_errors import nearest, unset_variable, wrong
from bot.config_values import (
    QYAPI,
    AesKey,
    AnyUrl,
    CorpId,
    Count,
    GuardedBaseUrl,
    GuardedUrl,
    Name,
    Network,
    NonEmpty,
    OptionalAesKey,
    OptionalSecret,
    OptionalTelegramSecret,
    Seconds,
    Secret,
    TelegramToken,
    WebhookSecrets,
    WecomBase,
)
from bot.yaml_source import KeyPath, YamlSource

Respond = Literal["mention", "faq", "all"]
SessionStrategy = Literal["user-in-chat", "chat", "topic", "user"]


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupOverride(Section):
    """What one connector does differently from the top level `groups`."""

    respond: Respond | None = None
    wake_words: tuple[NonEmpty, ...] | None = None
    session: SessionStrategy | None = None


class ConnectorSettings(Section):
    """What every connector has: a unique name, part of routes and identities, and its own group rules."""

    name: Name
    groups: GroupOverride = GroupOverride()


class WebchatSettings(ConnectorSettings):
    """The web chat page at /."""

    type: Literal["webchat"] = "webchat"


class ConsoleSettings(ConnectorSettings):
    """Standard input and output."""

    type: Literal["console"] = "console"


class TelegramSettings(ConnectorSettings):
    """One Telegram bot, by long polling or by webhook (`public_url` is the complete callback URL)."""

    type: Literal["telegram"] = "telegram"
    token: TelegramToken
    api_base: GuardedBaseUrl = "https://api.telegram.org"
    mode: Literal["polling", "webhook"] = "polling"
    public_url: GuardedUrl | None = None
    secret: OptionalTelegramSecret = None
    streaming: bool = True
    feedback: bool = True

    @model_validator(mode="after")
    def _webhook_is_complete(self) -> TelegramSettings:
        for key in ("public_url", "secret") if self.mode == "webhook" else ():
            if getattr(self, key) is None:
                raise wrong(f"mode webhook needs {key}", f"add {key}: ..., or use mode: polling")
        return self


class WebhookSettings(ConnectorSettings):
    """A source of Standard Webhooks; several secrets are for rotation, the first one signs what goes out."""

    type: Literal["webhook"] = "webhook"
    secret: WebhookSecrets
    reply_url: AnyUrl | None = None
    wait: Annotated[Seconds, Field(le=300)] = 20.0


class WecomCallback(ConnectorSettings):
    """What every route that WeCom calls has: who may call, and how old a call may be.

    `callback_ips` are the networks that WeCom calls from (all, where empty); `replay_window` is how many
    seconds a call's own time may be off (any, where null: the inbox already drops repeated messages);
    `public_url` is the complete callback URL, for `glmbot doctor wecom` to try.
    """

    callback_ips: tuple[Network, ...] = ()
    replay_window: Seconds | None = None
    public_url: GuardedUrl | None = None


class WecomAppSettings(WecomCallback):
    """A self-built application (自建应用).

    `reply: passive` answers in the response to the callback where the answer is ready in time.
    `markdown` is for staff in the WeCom client: members who follow along in WeChat are shown no markdown.
    """

    type: Literal["wecom-app"] = "wecom-app"
    corp_id: CorpId
    agent_id: Count
    secret: Secret
    token: Secret
    aes_key: AesKey
    api_base: WecomBase = QYAPI
    reply: Literal["active", "passive"] = "active"
    markdown: bool = False


class WecomAibotSettings(WecomCallback):
    """An intelligent robot (智能机器人); `robot_name` is what group members write behind the @."""

    type: Literal["wecom-aibot"] = "wecom-aibot"
    token: Secret
    aes_key: AesKey
    robot_name: NonEmpty | None = None
    api_base: WecomBase = QYAPI
    feedback: bool = True


class WecomKfSettings(WecomCallback):
    """A customer service account (微信客服).

    What is null comes from the application `app`, on whose route its events arrive; `token` and `aes_key`
    of its own open a route of its own. `servicers` are the members who may take over; without any a
    conversation goes to the account's waiting pool.
    """

    type: Literal["wecom-kf"] = "wecom-kf"
    kf_id: NonEmpty
    app: Name | None = None
    corp_id: CorpId | None = None
    secret: OptionalSecret = None
    token: OptionalSecret = None
    aes_key: OptionalAesKey = None
    api_base: WecomBase | None = None
    servicers: tuple[NonEmpty, ...] = ()
    feedback: bool = True

    @model_validator(mode="after")
    def _is_complete(self) -> WecomKfSettings:
        for key in () if self.app else ("corp_id", "secret", "token", "aes_key"):
            if getattr(self, key) is None:
                raise wrong(f"without app this needs {key}", f"add app: NAME of a wecom-app, or {key}: ...")
        if (self.token is None) != (self.aes_key is None):
            raise wrong("a route of its own needs both token and aes_key", "add the other one")
        for key in ("callback_ips", "replay_window", "public_url") if self.token is None else ():
            if getattr(self, key):
                raise wrong(
                    f"{key} is for a route of its own", "write it at the app, or add token and aes_key"
                )
        return self

    def completed(self, app: WecomAppSettings | None) -> WecomKfSettings:
        """The same with the corp, secret and API of its application where it has none of its own."""
        if app is None:
            return self.model_copy(update={"api_base": self.api_base or QYAPI})
        shared = ("corp_id", "secret", "api_base")
        return self.model_copy(update={key: getattr(self, key) or getattr(app, key) for key in shared})


class WecomRobotSettings(ConnectorSettings):
    """A group robot (群机器人), which can only push."""

    type: Literal["wecom-robot"] = "wecom-robot"
    key: Secret
    api_base: WecomBase = QYAPI


WecomSettings = WecomAppSettings | WecomAibotSettings | WecomKfSettings | WecomRobotSettings
AnyConnector = Annotated[
    WebchatSettings | ConsoleSettings | TelegramSettings | WebhookSettings | WecomSettings,
    Field(discriminator="type"),
]


def check_connectors(connectors: Sequence[ConnectorSettings], source: YamlSource) -> None:
    """Refuse what no single entry can tell: names and bots that occur twice. Raises ConfigError."""
    names: set[str] = set()
    bots: set[tuple[str, ...]] = set()
    for index, item in enumerate(connectors):
        here: KeyPath = ("connectors", index)
        if item.name in names:
            raise source.error((*here, "name"), f"the name {item.name!r} is taken", "give each its own name")
        names.add(item.name)
        key, bot = _bot_of(item)
        if bot in bots and key == "type":
            raise source.error((*here, key), f"there can be one {bot[0]} only", "take one out")
        if bot in bots:
            raise source.error((*here, key), "two connectors use one bot", "take one out")
        if all(bot):
            bots.add(bot)
    for index, item in enumerate(connectors):
        if isinstance(item, WecomKfSettings) and item.app is not None:
            apps = [other.name for other in connectors if isinstance(other, WecomAppSettings)]
            if item.app not in apps:
                problem = f"no wecom-app is named {item.app!r}"
                raise source.error(("connectors", index, "app"), problem, nearest(item.app, apps))
            owner = next(other for other in connectors if other.name == item.app)
            if item.corp_id not in (None, getattr(owner, "corp_id", None)):
                problem = f"{item.app!r} is of another corp"
                raise source.error(("connectors", index, "corp_id"), problem, "take app or corp_id out")


def _bot_of(item: ConnectorSettings) -> tuple[str, tuple[str, ...]]:
    """(the key that tells, which bot on which platform an entry is); "" where a secret is not set."""
    match item:
        case WebchatSettings() | ConsoleSettings():
            return "type", (item.type,)
        case TelegramSettings():
            return "token", (item.type, item.api_base, item.token.get_secret_value())
        case WecomAppSettings():
            return "agent_id", (item.type, item.api_base, item.corp_id, str(item.agent_id))
        case WecomKfSettings():
            return "kf_id", (item.type, item.kf_id)
        case WecomRobotSettings():
            return "key", (item.type, item.api_base, item.key.get_secret_value())
    return "name", ("", item.name)


def switched_off(connectors: Sequence[ConnectorSettings], source: YamlSource) -> dict[int, str]:
    """Connectors (by index) whose secret names an unset variable; unset anywhere else is an error.

    An account whose application is off is off with it.
    """
    off: dict[int, str] = {}
    for path, variable in source.unset.items():
        match path:
            case ("connectors", int(index), str(key), *_) if _is_secret(connectors[index], key):
                off.setdefault(index, variable)
            case _:
                raise unset_variable(source, path)
    dark = {connectors[index].name: variable for index, variable in off.items()}
    for index, item in enumerate(connectors):
        if isinstance(item, WecomKfSettings) and item.app in dark:
            off.setdefault(index, dark[item.app])
    return off


def _is_secret(connector: ConnectorSettings, key: str) -> bool:
    value = getattr(connector, key)
    return isinstance(value, SecretStr) or (
        isinstance(value, tuple) and any(isinstance(item, SecretStr) for item in value)
    )
