"""The kinds of values that stand in config.yaml: secrets, URLs, paths, rates, texts.

Paths and the store's URL start from `base` of pydantic's validation context: the config file's folder.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
)

from bot.config_errors import wrong
from bot.yaml_source import UnsetVariable

QYAPI = "https://qyapi.weixin.qq.com"
_NAME = r"[a-z0-9][a-z0-9-]*"


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # YAML's `yes` would otherwise count as 1
        raise wrong(f"{str(value).lower()} is not a number", "write a number")
    return value


def _secret(value: Any, handler: Any) -> SecretStr:
    if isinstance(value, UnsetVariable):  # load_config switches the connector off
        return SecretStr("")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise wrong("a secret must not be empty", "give its value, or ${ENV:NAME} to read it from a variable")
    secret: SecretStr = handler(value.strip() if isinstance(value, str) else value)
    return secret


def _telegram_token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9:_-]+", secret.get_secret_value()):
        raise wrong("a bot token looks like 123456:ABC-DEF", "copy it from @BotFather")
    return secret


def _telegram_secret(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", secret.get_secret_value()):
        raise wrong("the secret must be 1 to 256 of A-Z a-z 0-9 _ -", "run: openssl rand -hex 32")
    return secret


def _webhook_secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    remedy = "run: echo whsec_$(openssl rand -base64 32)"
    if not value.startswith("whsec_"):
        raise wrong("a webhook secret begins with whsec_", remedy)
    body = value.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wrong("what follows whsec_ is not base64", remedy) from None
    if not 24 <= len(key) <= 64:
        raise wrong(f"the secret holds {len(key)} bytes, it must hold 24 to 64", remedy)
    return secret


def _aes_key(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}", secret.get_secret_value()):
        raise wrong("an EncodingAESKey is 43 of A-Z a-z 0-9 + /", "copy it from the admin console again")
    return secret


def _not_null(value: Any) -> Any:
    return _secret(value, SecretStr) if value is None else value


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _url(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = None
    if not usable or re.search(r"\s", value):
        raise wrong("not an http(s) URL", "write it as https://host/path")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _any_url(value: str) -> str:
    _url(value)
    return value


def _guarded_url(value: str) -> str:
    parts = _url(value)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise wrong("plain http is accepted on loopback only", "use https://")
    return value


def _base_url(value: str) -> str:
    parts = _url(value)
    if parts.query or parts.fragment:
        raise wrong("a base URL has neither ? nor #", "write it as https://host:port")
    return value.rstrip("/")


def _wecom_base(value: str) -> str:
    return value.removesuffix("/cgi-bin").rstrip("/")


def _corp_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise wrong(f"{value!r} is not a corp id", "copy 企业ID from 我的企业 in the admin console")
    return value


def _network(value: Any) -> Any:
    try:
        return ipaddress.ip_network(value, strict=False)
    except (TypeError, ValueError):
        raise wrong(f"{value!r} is not an address or network", "write it like 203.0.113.0/24") from None


def _store_url(value: str, info: ValidationInfo) -> str:
    """A relative SQLite path becomes absolute, from the folder of the config file."""
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        raise wrong(
            f"the store cannot be {scheme!r}" if separator else "not a database URL",
            "use sqlite+aiosqlite:///file.db",
        )
    name, query, options = rest.removeprefix("/").partition("?")
    base = (info.context or {}).get("base")
    if scheme != "sqlite+aiosqlite" or name in ("", ":memory:") or name.startswith("file:") or base is None:
        return value
    path = Path(base, name)
    if not path.parent.is_dir():
        raise wrong(f"the folder {path.parent} does not exist", "create it")
    return f"{scheme}:///{path}{query}{options}"


def _resolved(value: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("base", ""), value.expanduser())


def _existing(value: Path, info: ValidationInfo) -> Path:
    path = _resolved(value, info)
    if not path.exists():
        raise wrong(f"{path} does not exist", "create it, or correct the path (relative to the config file)")
    return path


def _encoder(value: str, info: ValidationInfo) -> str:
    """A folder after `transformers:` becomes absolute; what is no folder is left to the encoder's loader."""
    kind, _, name = value.partition(":")
    folder = _resolved(Path(name), info)
    return f"{kind}:{folder.absolute()}" if kind == "transformers" and name and folder.is_dir() else value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise wrong(f"unknown time zone {value!r}", "use a name such as Asia/Shanghai") from None
    return value


def _backend(value: Any) -> Any:
    if value == "ray":
        raise wrong("the backend 'ray' comes with a later release", "use local or openai")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value) or len(value) > 64:
        raise wrong(
            f"{value!r} is not a name", "use up to 64 of a-z, 0-9 and -, beginning with a letter or digit"
        )
    return value


def _identity(value: str) -> str:
    connector, separator, who = value.partition(":")
    if not separator or not re.fullmatch(_NAME, connector) or not who or re.search(r"\s", who):
        raise wrong(f"{value!r} names nobody", "write connector:id, such as telegram-main:12345")
    return value


def _both_languages(value: Any) -> Any:
    return {"zh": value, "en": value} if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` within `seconds`."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read `20/minute`, `5/10s`, `100/hour`, `1000/day`; raises ValueError."""
        match = _RATE.fullmatch(text)
        if not match or not int(match["count"]) or not int(match["times"] or 1):
            raise ValueError(f"{text!r} is not a rate")
        unit = next(seconds for name, seconds in _UNITS.items() if match["unit"].lower().startswith(name))
        return cls(int(match["count"]), float(int(match["times"] or 1) * unit))


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(
    r"\s*(?P<count>\d{1,9})\s*/\s*(?P<times>\d{1,6})?\s*"
    r"(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)\s*",
    re.IGNORECASE | re.ASCII,
)


def _rate(value: Any) -> Any:
    if isinstance(value, Rate):
        return value
    try:
        return Rate.parse(str(value))
    except ValueError as error:
        raise wrong(str(error), "write it as 20/minute, 5/10s or 100/hour") from None


def _size(value: Any) -> Any:
    match = (
        _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    )
    if match is None:
        raise wrong(f"{value!r} is not a size", "write it as 12GB or 800MB")
    return int(float(match["number"]) * _SIZES[match["unit"].upper()])


_SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(?P<number>\d{1,15}(\.\d{1,6})?)\s*(?P<unit>|[KMG]i?B)\s*", re.IGNORECASE | re.ASCII)

Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_name)]
NonEmpty = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, WrapValidator(_secret)]
TelegramToken = Annotated[SecretStr, AfterValidator(_telegram_token), WrapValidator(_secret)]
TelegramSecret = Annotated[SecretStr, AfterValidator(_telegram_secret), WrapValidator(_secret)]
WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret), WrapValidator(_secret)]
OptionalTelegramSecret = Annotated[TelegramSecret | None, BeforeValidator(_not_null)]
"""May be left out, but not written as null."""
OptionalSecret = Annotated[Secret | None, BeforeValidator(_not_null)]
AesKey = Annotated[SecretStr, AfterValidator(_aes_key), WrapValidator(_secret)]
OptionalAesKey = Annotated[AesKey | None, BeforeValidator(_not_null)]
CorpId = Annotated[str, AfterValidator(_corp_id)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["203.0.113.0/24"]}),
]
WebhookSecrets = Annotated[tuple[WebhookSecret, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
AnyUrl = Annotated[str, AfterValidator(_any_url)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
GuardedBaseUrl = Annotated[str, AfterValidator(_guarded_url), AfterValidator(_base_url)]
WecomBase = Annotated[
    str, AfterValidator(_guarded_url), AfterValidator(_base_url), AfterValidator(_wecom_base)
]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Port = Annotated[int, BeforeValidator(_number), Field(ge=0, le=65535)]
Bytes = Annotated[int, BeforeValidator(_number), Field(ge=1024)]
Size = Annotated[int, Field(ge=1024), BeforeValidator(_size, json_schema_input_type=int | str)]
"""Bytes, written with a unit: 12GB."""
GuardedUrl = Annotated[str, AfterValidator(_guarded_url)]
ConfigPath = Annotated[Path, AfterValidator(_existing)]
"""A path that is relative to the config file and must exist when it is written there (plugins use it too)."""
EncoderName = Annotated[str, Field(min_length=1), AfterValidator(_encoder)]
NewPath = Annotated[Path, AfterValidator(_resolved)]
Identity = Annotated[str, AfterValidator(_identity)]
Backend = Annotated[Literal["local", "openai"], BeforeValidator(_backend)]
LocalText = Annotated[dict[Literal["zh", "en"], NonEmpty], BeforeValidator(_both_languages)]
"""Text by language; a plain string stands for both."""
RateText = Annotated[
    Rate, BeforeValidator(_rate), WithJsonSchema({"type": "string", "examples": ["20/minute"]})
]
