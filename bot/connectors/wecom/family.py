"""Builds all WeCom connectors of a configuration together: they share connections, tokens and routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import SecretStr

from bot.catalogue import Catalogue
from bot.config_connectors import (
    WecomAibotSettings,
    WecomAppSettings,
    WecomCallback,
    WecomKfSettings,
    WecomRobotSettings,
    WecomSettings,
)
from bot.connectors.base import Connector
from bot.connectors.wecom.aibot import Aibot
from bot.connectors.wecom.api import BASE_LIMITS, Http, QyApi
from bot.connectors.wecom.app import App
from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.crypto import Crypto
from bot.connectors.wecom.kf import Kf
from bot.connectors.wecom.pace import Pace
from bot.connectors.wecom.robot import Robot
from bot.connectors.wecom.token import AccessToken
from bot.metrics import Metrics
from bot.store.cursors import Cursors


def build(
    settings: Sequence[WecomSettings],
    *,
    catalogue: Catalogue,
    language: Literal["auto", "zh", "en"],
    max_body: int,
    metrics: Metrics,
    cursors: Cursors,
) -> dict[str, Connector]:
    """A connector by name for each entry; events of an account arrive through its application."""
    parts = _Parts(max_body, metrics)
    apps: dict[str, tuple[WecomAppSettings, App]] = {}
    built: dict[str, Connector] = {}
    for item in settings:
        match item:
            case WecomAppSettings():
                crypto = Crypto(_plain(item.token), _plain(item.aes_key), item.corp_id)
                app = App(
                    item,
                    callback=parts.callback(crypto, item),
                    api=parts.api(item.name, item.api_base, item.corp_id, item.secret),
                    metrics=metrics,
                )
                apps[item.name] = (item, app)
                built[item.name] = app
            case WecomAibotSettings():
                crypto = Crypto(_plain(item.token), _plain(item.aes_key), "")
                built[item.name] = Aibot(
                    item,
                    callback=parts.callback(crypto, item),
                    crypto=crypto,
                    http=parts.http.join(),
                    catalogue=catalogue,
                    language=language,
                    metrics=metrics,
                )
            case WecomRobotSettings():
                api = QyApi(parts.http.join(), item.api_base, metrics=metrics, connector=item.name)
                built[item.name] = Robot(item, api=api, metrics=metrics)
    for item in settings:
        if isinstance(item, WecomKfSettings):
            owner = apps.get(item.app or "")
            whole = item.completed(owner[0] if owner else None)
            kf = _kf(whole, parts, cursors, catalogue, language, metrics)
            built[item.name] = kf
            if owner is not None:
                owner[1].route_kf(item.kf_id, kf.wake)
    return built


class _Parts:
    """What the connectors share: one pool of connections, one token for each corp and secret.

    Limits count the calls of a corp, whatever their secrets.
    """

    def __init__(self, max_body: int, metrics: Metrics) -> None:
        self.http = Http(users=0)
        self._max_body = max_body
        self._metrics = metrics
        self._tokens: dict[tuple[str, str, str], AccessToken] = {}
        self._paces: dict[tuple[str, str], Pace] = {}

    def api(self, name: str, base: str, corp_id: str, secret: SecretStr) -> QyApi:
        """The API of an application or account, with the token of all that have its corp and secret."""
        key = (base, corp_id, secret.get_secret_value())
        if key not in self._tokens:
            self._tokens[key] = AccessToken(self.http, base, corp_id, secret)
        pace = self._paces.setdefault((base, corp_id), Pace(*BASE_LIMITS))
        return QyApi(
            self.http.join(), base, self._tokens[key], pace=pace, metrics=self._metrics, connector=name
        )

    def callback(self, crypto: Crypto, settings: WecomCallback) -> Callback:
        """The gate of one route."""
        return Callback(
            crypto,
            max_body=self._max_body,
            allowed=settings.callback_ips,
            replay_window=settings.replay_window,
        )


def _kf(
    settings: WecomKfSettings,
    parts: _Parts,
    cursors: Cursors,
    catalogue: Catalogue,
    language: Literal["auto", "zh", "en"],
    metrics: Metrics,
) -> Kf:
    """An account; the gaps of its settings are filled."""
    if settings.corp_id is None or settings.secret is None or settings.api_base is None:
        raise ValueError(f"the settings of {settings.name!r} are not complete")
    callback = None
    if settings.token is not None and settings.aes_key is not None:
        crypto = Crypto(_plain(settings.token), _plain(settings.aes_key), settings.corp_id)
        callback = parts.callback(crypto, settings)
    return Kf(
        settings,
        api=parts.api(settings.name, settings.api_base, settings.corp_id, settings.secret),
        cursors=cursors,
        callback=callback,
        catalogue=catalogue,
        language=language,
        metrics=metrics,
    )


def _plain(secret: SecretStr) -> str:
    return secret.get_secret_value()
