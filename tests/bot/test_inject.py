"""Injection: parameters are planned once from types and names; what cannot be provided is said at once."""

import asyncio
import re
from typing import Any

import pytest
from pydantic import BaseModel

from bot.errors import PluginError
from bot.inject import Call, Injector
from bot.message import Chat, Message, User
from bot.plugin import Handler, Plugin


class Settings(BaseModel):
    room: str = "12"


class Service:
    pass


class Absent:
    pass


MESSAGE = Message("test", "bot", "d", Chat("c"), User("u"), "hi")
SERVICE = Service()


def handler_of(function: Any) -> Handler:
    plugin = Plugin("p", config=Settings)
    plugin.message()(function)
    return plugin.handlers[0]


def call(function: Any, **fields: Any) -> Any:
    injector = Injector({Service: lambda plugin: SERVICE, Absent: lambda plugin: None})
    return asyncio.run(injector.plan(handler_of(function), Settings()).run(Call(MESSAGE, **fields)))


def test_by_type() -> None:
    def handler(who: User, where: Chat, what: Message, settings: Settings, service: Service) -> Any:
        return who, where, what, settings.room, service

    assert call(handler) == (MESSAGE.user, MESSAGE.chat, MESSAGE, "12", SERVICE)


def test_by_name_and_default() -> None:
    def handler(message, args: str, limit: int = 3) -> Any:  # type: ignore[no-untyped-def]
        return message, args, limit

    assert call(handler, args="rest") == (MESSAGE, "rest", 3)


def test_a_match_with_its_type_argument() -> None:
    def handler(found: re.Match[str]) -> Any:
        return found[0]

    assert call(handler, match=re.search("h", "hi")) == "h"


def test_an_absent_service_is_none_where_the_plugin_allows_it() -> None:
    def handler(absent: Absent | None) -> Any:
        return absent

    assert call(handler) is None


def test_an_absent_service_that_is_needed_switches_the_plugin_off() -> None:
    def handler(absent: Absent) -> Any: ...

    with pytest.raises(PluginError, match=r"Absent \| None"):
        call(handler)


def test_an_unknown_parameter_is_named() -> None:
    def handler(weather: bytes) -> Any: ...

    with pytest.raises(PluginError, match="weather") as caught:
        call(handler)
    assert caught.value.plugin == "p"


def test_keyword_only_parameters_are_refused() -> None:
    def handler(*, message: Message) -> Any: ...

    with pytest.raises(PluginError, match="plain parameters"):
        call(handler)
