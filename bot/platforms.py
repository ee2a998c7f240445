"""From the configuration's entries to connectors; a platform is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bot.catalogue import Catalogue
from bot.config import Config
from bot.config_connectors import (
    ConsoleSettings,
    TelegramSettings,
    WebchatSettings,
    WebhookSettings,
    WecomSettings,
)
from bot.connectors.base import Connector
from bot.metrics import Metrics
from bot.store.cursors import Cursors
from bot.store.engine import Store
from bot.store.secrets import own_secret


async def build_connectors(
    config: Config,
    *,
    store: Store,
    catalogue: Catalogue,
    metrics: Metrics,
    commands: Callable[[], Sequence[tuple[str, str]]],
) -> list[Connector]:
    """The configured connectors, in order. `commands` are (name, help), looked up when they are asked for."""
    family = [item for item in config.connectors if isinstance(item, WecomSettings)]
    wecom: Mapping[str, Connector] = {}
    max_body = config.server.max_body
    if family:
        from bot.connectors.wecom.family import build

        wecom = build(
            family,
            catalogue=catalogue,
            language=config.language,
            max_body=max_body,
            metrics=metrics,
            cursors=Cursors(store),
        )
    built: list[Connector] = []
    for item in config.connectors:
        match item:
            case TelegramSettings():
                from bot.connectors.telegram import Telegram

                telegram = Telegram(
                    item,
                    catalogue=catalogue,
                    language=config.language,
                    max_body=max_body,
                    commands=commands,
                )
                built.append(telegram)
            case WebhookSettings():
                from bot.connectors.webhook import Webhook

                built.append(Webhook(item, max_body=max_body))
            case WebchatSettings():
                from bot.connectors.webchat import Webchat

                secret = await own_secret(store, "webchat")
                built.append(Webchat(item, catalogue=catalogue, secret=secret, max_body=max_body))
            case ConsoleSettings():
                from bot.connectors.console import Console

                built.append(Console(item))
            case _:
                built.append(wecom[item.name])
    return built
