"""pydantic's complaints, told as ConfigErrors with file, line, key, nearest known key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from bot.errors import ConfigError
from bot.yaml_source import KeyPath, YamlSource

_CUSTOM = "config"
_QUOTE = "put it in quotes"
_REMEDIES = {
    "string_type": _QUOTE,
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "list_type": "write a list: [one, two]",
    "tuple_type": "write a list: [one, two]",
    "path_type": "write a path as text",
}
_MAPPINGS = ("dict_type", "model_type", "model_attributes_type")


def wrong(problem: str, remedy: str) -> PydanticCustomError:
    """What a validator raises when it knows the remedy itself."""
    # the texts travel in the context: as a template, a brace in a user's value would be a placeholder
    return PydanticCustomError(_CUSTOM, "{problem}", {"problem": problem, "remedy": remedy})


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known word, else all of them."""
    choices = sorted(known)
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    return f"known are: {', '.join(choices)}" if choices else "remove it"


def config_error(
    error: ValidationError, model: type[BaseModel], source: YamlSource, prefix: KeyPath = ()
) -> ConfigError:
    """The complaint that stands first in the file; `prefix` is where `model`'s data begins in it."""
    data: Any = source.data
    for part in prefix:
        data = data.get(part) or {}
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault((*prefix, *_key_path(data, details)), []).append(details)
    path = min(found, key=lambda path: source.line(path) or 0)
    if path in source.unset:
        return unset_variable(source, path)
    told = dict(_explain(details, model, path[-1] if path else "") for details in found[path])
    return source.error(
        path, ", and ".join(told), " or ".join(dict.fromkeys(told.values()))
    )  # of a union: all


def unset_variable(source: YamlSource, path: KeyPath) -> ConfigError:
    """The error of a value whose environment variable is not set."""
    name = source.unset[path]
    remedy = f"set it, or write ${{ENV:{name}:-default}}"
    return source.error(path, f"the environment variable {name} is not set", remedy)


def _explain(details: ErrorDetails, model: type[BaseModel], last: str | int) -> tuple[str, str]:
    kind, context = details["type"], details.get("ctx", {})
    if kind == _CUSTOM:
        return str(context["problem"]), str(context["remedy"])
    if kind == "extra_forbidden":
        return "unknown key", nearest(str(last), _known_keys(model, details["loc"][:-1]))
    if kind == "missing":
        return "the key is missing", "add it"
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing", "say which kind it is"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
        return f"{context['tag']!r} is no known {context['discriminator']}", nearest(
            str(context["tag"]), tags
        )
    if kind in ("literal_error", "enum"):
        problem = f"{details['input']!r} is not one of {context['expected']}"
        choices = str(context["expected"]).replace(" or ", ", ").split(", ")
        return problem, nearest(str(details["input"]), [choice.strip("'") for choice in choices])
    if kind in _MAPPINGS:
        return "keys and values are expected here", "write them as key: value"
    message = details["msg"]
    return message[:1].lower() + message[1:], _REMEDIES.get(kind, "correct the value")


def _key_path(data: Any, details: ErrorDetails) -> KeyPath:
    """pydantic's location without what does not stand in the file (union tags, validator names)."""
    path: list[str | int] = []
    for position, part in enumerate(details["loc"]):
        is_last = position == len(details["loc"]) - 1
        here = data.get(part, path) if isinstance(data, dict) else path  # `path` itself: "not there"
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            here = data[part]
        if here is not path:
            data = here
            path.append(part)
        elif is_last and details["type"] == "missing":
            path.append(part)
    return tuple(path)


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """The keys of the model that stands at `loc`, following lists, mappings and tagged unions."""
    kinds: list[Any] = [model]
    for part in loc:
        kinds = list(_step(kinds, part))
    return {
        field.alias or name
        for kind in _plain(kinds)
        if _is_model(kind)
        for name, field in kind.model_fields.items()
    }


def _step(kinds: list[Any], part: str | int) -> Iterator[Any]:
    plain = list(_plain(kinds))
    tagged = [kind for kind in plain if _is_model(kind) and _has_tag(kind, part)]
    if tagged:
        yield from tagged
        return
    for kind in plain:
        if _is_model(kind):
            for name, field in kind.model_fields.items():
                if part in (name, field.alias):
                    yield field.annotation
        elif get_origin(kind) is dict:
            yield get_args(kind)[1]
        elif get_origin(kind) in (list, tuple):
            yield get_args(kind)[0]


def _has_tag(model: type[BaseModel], part: str | int) -> bool:
    return any(
        get_origin(field.annotation) is Literal and get_args(field.annotation) == (part,)
        for field in model.model_fields.values()
    )


def _plain(kinds: Iterable[Any]) -> Iterator[Any]:
    """Types out of Annotated, Optional and unions."""
    for kind in kinds:
        if get_origin(kind) is Annotated:
            yield from _plain(get_args(kind)[:1])
        elif get_origin(kind) in (Union, UnionType):
            yield from _plain(get_args(kind))
        else:
            yield kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
