"""Handler signature -> argument plan, worked out once at registration."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bot.answered import Answered
from bot.errors import PluginError
from bot.message import Chat, Message, User
from bot.plugin import Handler, Next
from bot.reply import Reply
from bot.rules import Facts
from bot.session import Session


@dataclass(slots=True)
class Call:
    """Everything one call of a handler can be given."""

    message: Message | None = None
    session: Session | None = None
    args: str = ""
    match: re.Match[str] | None = None
    next: Next | None = None
    facts: Facts | None = None
    answered: Answered | None = None
    reply: Reply | None = None


_Getter = Callable[[Call], Any]

_BY_TYPE: dict[type, _Getter] = {
    Message: lambda call: call.message,
    Session: lambda call: call.session,
    Chat: lambda call: call.message.chat if call.message else None,
    User: lambda call: call.message.user if call.message else None,
    Facts: lambda call: call.facts,
    Answered: lambda call: call.answered,
    Reply: lambda call: call.reply,
    re.Match: lambda call: call.match,
}
_BY_NAME: dict[str, _Getter] = {
    "args": lambda call: call.args,
    "message": lambda call: call.message,
    "session": lambda call: call.session,
    "match": lambda call: call.match,
    "next": lambda call: call.next,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A handler with its arguments planned: calling it costs one list comprehension."""

    handler: Handler
    getters: tuple[_Getter, ...]

    async def run(self, call: Call) -> Any:
        """Call the function, plain or async, and wait for what it returns."""
        result = self.call(call)
        return await result if inspect.isawaitable(result) else result

    def call(self, call: Call) -> Any:
        """Call the function; an async one gives what is to be awaited."""
        return self.handler.function(*[get(call) for get in self.getters])


class Injector:
    """Plans handlers' arguments from what a call carries and from services that plugins may ask for.

    `services` maps a type to a factory that is given the plugin's name; a service that is absent on this
    machine (no model) is injected as None where the annotation allows it.
    """

    def __init__(self, services: Mapping[type, Callable[[str], Any]]) -> None:
        self._services = dict(services)

    def plan(self, handler: Handler, config: BaseModel) -> Plan:
        """Work out where each parameter comes from. Raises PluginError naming what cannot be provided."""
        function = handler.function
        if isinstance(function, type) or not callable(function):
            raise PluginError(handler.plugin, f"{function!r} is not a function")
        try:
            hints = typing.get_type_hints(function)
            parameters = inspect.signature(function).parameters.values()
        except (NameError, TypeError, ValueError) as error:
            raise PluginError(
                handler.plugin, f"{_name(function)}: cannot read its signature: {error}"
            ) from error
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) != len(parameters):
            raise PluginError(handler.plugin, f"{_name(function)}: only plain parameters can be injected")
        return Plan(
            handler,
            tuple(
                self._getter(handler, config, parameter, hints.get(parameter.name))
                for parameter in positional
            ),
        )

    def _getter(
        self, handler: Handler, config: BaseModel, parameter: inspect.Parameter, hint: Any
    ) -> _Getter:
        wanted, optional = _unwrap(hint)
        if isinstance(wanted, type) and isinstance(config, wanted):
            return lambda call: config
        if wanted in _BY_TYPE:
            return _BY_TYPE[wanted]
        if wanted in self._services:
            service = self._services[wanted](handler.plugin)
            if service is None and not optional:
                raise PluginError(
                    handler.plugin,
                    f"{_name(handler.function)}: {wanted.__name__} is not available here; "
                    f"annotate it as `{wanted.__name__} | None` to go on without",
                )
            return lambda call: service
        if parameter.name in _BY_NAME and (hint in (None, Any, str) or parameter.name == "next"):
            return _BY_NAME[parameter.name]
        if parameter.default is not parameter.empty:
            default = parameter.default
            return lambda call: default
        known = sorted({kind.__name__ for kind in (*_BY_TYPE, *self._services)} | {type(config).__name__})
        raise PluginError(
            handler.plugin,
            f"{_name(handler.function)}: nothing provides parameter {parameter.name!r} ({hint!r}); "
            f"known: {', '.join(known)}, and by name: args, next",
        )


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """(T, True) of `T | None`; generic aliases lose their arguments."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        if len(members) == 1:
            hint = members[0]
    origin = typing.get_origin(hint)
    return (origin if isinstance(origin, type) else hint), optional


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
