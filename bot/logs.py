"""Structured logs: one line per event to stderr, one trace id per message, no secret and no personal data.

Modules log with `structlog.get_logger(__name__)`; the standard library's loggers pass the same processors.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

import structlog
from pydantic import BaseModel, SecretStr
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from bot.config import Config, StoreSettings
from bot.personal_data import mask

HIDDEN = "[hidden]"
_HANDLER = "glmbot"
_NOISY = ("aiohttp.access", "alembic", "apscheduler", "asyncio")  # shown from warning on, or all at debug
_PRIVATE = ("aiosqlite", "sqlalchemy")  # never shown below warning: they tell what people wrote
_SHORTEST = 4  # a shorter "secret" would blank out ordinary words
_SECRET_KEY = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|api[_-]?key|aes[_-]?key|authorization|cookie)$", re.IGNORECASE
)
_EXACT_KEY = re.compile(
    r"(?:^|[_-])(?:ids?|bot|chat|connector|delivery|identity|key|session|timestamp|trace|user)$",
    re.IGNORECASE,
)
"""What names somebody or something: it must stay as it is, even where it looks like a telephone number."""
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(/(?:file/)?bot)\d+(?::|%3A)[\w-]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b\d{6,}:[A-Za-z0-9_-]{30,}"), HIDDEN),
    (re.compile(r"whsec_[A-Za-z0-9+/_-]+=*"), HIDDEN),
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\",]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{HIDDEN}@"),
    (
        re.compile(r"(?i)([?&](?:access_token|token|secret|corpsecret|api_key|password|key)=)[^&\s'\"]+"),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"(?i)((?:token|secret|password|api_key|authorization)['\"]\s*:\s*['\"])[^'\"]+"),
        rf"\1{HIDDEN}",
    ),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # terminals act on them; \t and \n stay


def configure_logging(config: Config, stream: TextIO | None = None) -> None:
    """Send structlog and standard logging to `stream` (stderr) as configured; may be called again."""
    stream = stream or sys.stderr
    as_json = config.log.format == "json" or (config.log.format == "auto" and not stream.isatty())
    level = logging.getLevelNamesMapping()[config.log.level.upper()]
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=as_json),
    ]
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # text before Redactor sees it
                Redactor(secret_values(config)),
                _renderer(as_json, stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)
    for name in _PRIVATE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a reload or a test may configure again
    )


def _renderer(as_json: bool, stream: TextIO) -> Processor:
    if as_json:
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())


def new_trace() -> str:
    """A fresh trace id."""
    return secrets.token_hex(8)


def bind_trace(trace: str, **labels: str) -> AbstractContextManager[None]:
    """Within the block, every log line of this task and of those it starts carries `trace` and `labels`."""
    return bound_contextvars(trace=trace, **labels)


class Redactor:
    """A log processor that hides secrets: under keys named like one, in known forms, by exact value.

    Personal data are masked in all values but identifiers, which their keys tell.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {
            form for value in values for form in (value, quote(value, safe=""), value.removeprefix("whsec_"))
        }
        known = sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
        """structlog's processor protocol."""
        return {key: self._value(key, value) for key, value in event_dict.items()}

    def text(self, text: str, *, exact: bool = False) -> str:
        """`text` without secrets, without characters that a terminal would act on and, unless it is to stay
        `exact`, without personal data.
        """
        if self._known:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        if not exact:
            text = mask(text)
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)

    def _value(self, key: object, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(key, str) and _SECRET_KEY.search(key):
            return HIDDEN
        if isinstance(value, dict):
            return {self.text(str(name)): self._value(name, item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(key, item) for item in value]
        exact = isinstance(key, str) and _EXACT_KEY.search(key) is not None
        return self.text(value if isinstance(value, str) else repr(value), exact=exact)


def secret_values(config: Config) -> set[str]:
    """Every secret that stands in a configuration."""
    return set(_secrets(config))


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, StoreSettings):
        yield unquote(urlsplit(value.url).password or "")
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets(item)
