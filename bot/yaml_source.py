"""YAML that remembers its lines, with `${ENV:NAME}`, `${ENV:NAME:-default}` and `${FILE:path}` filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bot.errors import ConfigError

KeyPath = tuple[str | int, ...]

_MERGE = "tag:yaml.org,2002:merge"
_MAX_NODES = 200_000  # aliases multiply: ten lines of YAML can stand for gigabytes
_REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<body>[^{}\n]*)\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENED = re.compile(r"(?<!\$)\$\{(?:ENV|FILE):[^}]*$", re.IGNORECASE)


class UnsetVariable(str):
    """The text of a value whose environment variable is not set; `YamlSource.unset` names the variable."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class YamlSource:
    """One parsed file: plain data, the line (from 1) of every key path, and what no variable filled."""

    file: Path | None
    data: dict[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    unset: Mapping[KeyPath, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self.file.parent if self.file else Path.cwd()

    def line(self, path: KeyPath) -> int | None:
        """The line of a key path, or of its nearest parent that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def error(self, path: KeyPath, problem: str, remedy: str | None = None) -> ConfigError:
        """A ConfigError that names this file, the line and the dotted key of `path`."""
        return ConfigError(problem, file=self.file, line=self.line(path), key=dotted(path), remedy=remedy)


def dotted(path: KeyPath) -> str | None:
    """`("connectors", 0, "token")` -> `connectors[0].token`; None for the top."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or None


def load_yaml(file: Path, environ: Mapping[str, str] | None = None) -> YamlSource:
    """Read one YAML mapping; an empty file is an empty mapping.

    Raises ConfigError with the line for unreadable files, broken encoding, broken YAML, duplicate keys and
    references that cannot be filled. An unset variable alone does not raise: it is listed in `unset`.
    """
    file = file.absolute()
    text = _read(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return YamlSource(file)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                "the file must be a mapping of keys to values",
                file=file,
                line=node.start_mark.line + 1,
                remedy="start it with a line such as 'server: {port: 8080}'",
            )
        return _Builder(file, os.environ if environ is None else environ).build(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else None
        raise ConfigError(
            f"not valid YAML: {problem}", file=file, line=line, remedy="look at this line and the one above"
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"the character U+{int(error.character):04X} is not allowed in YAML",
            file=file,
            line=line,
            remedy="remove it",
        ) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"not usable YAML: {error}", file=file, remedy="write it more simply") from error


def _read(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError("no such file", file=file, remedy="create it or give another path") from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=file, remedy="check path and permissions"
        ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8", file=file, line=line, remedy="save it as UTF-8"
        ) from error


class _Builder:
    """Turns a composed node tree into plain data, noting lines and filling references."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ
        self._constructor = yaml.constructor.SafeConstructor()
        self._lines: dict[KeyPath, int] = {}
        self._unset: dict[KeyPath, str] = {}
        self._nodes = 0

    def build(self, root: yaml.MappingNode) -> YamlSource:
        data = self._value(root, ())
        return YamlSource(self._file, data, self._lines, self._unset)

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        if self._nodes > _MAX_NODES:
            raise ConfigError(
                f"more than {_MAX_NODES} values once aliases are expanded",
                file=self._file,
                line=line,
                remedy="use fewer aliases (*name)",
            )
        self._lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        value = self._constructor.construct_object(node)
        return self._filled(value, path, line) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, path)
            if key in first_lines:
                raise ConfigError(
                    f"the key stands twice, first on line {first_lines[key]}",
                    file=self._file,
                    line=line,
                    key=dotted((*path, key)),
                    remedy="keep one of them",
                )
            first_lines[key] = line
        values: dict[str, Any] = {}
        for defaults in self._merged(node):
            values |= self._mapping(defaults, path)
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                here = (*path, self._key(key_node, path))
                self._forget(here)
                self._lines[here] = key_node.start_mark.line + 1
                values[str(key_node.value)] = self._value(value_node, here)
        return values

    def _merged(self, node: yaml.MappingNode) -> list[yaml.MappingNode]:
        """What `<<: *defaults` or `<<: [*first, *second]` brings in, the strongest last."""
        nodes = [value for key, value in node.value if key.tag == _MERGE]
        nodes = [item for value in nodes for item in (value.value if value.id == "sequence" else [value])]
        for item in nodes:
            if not isinstance(item, yaml.MappingNode):
                raise ConfigError(
                    "<< merges mappings only",
                    file=self._file,
                    line=item.start_mark.line + 1,
                    remedy="write <<: *name, where &name marks a mapping",
                )
        return nodes[::-1]

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        if isinstance(node, yaml.ScalarNode) and node.value:
            return str(node.value)
        raise ConfigError(
            "a key must be plain text",
            file=self._file,
            line=node.start_mark.line + 1,
            key=dotted(path),
            remedy="put values that begin with { or [ in quotes",
        )

    def _forget(self, path: KeyPath) -> None:
        """Drop what a merged mapping had noted below a key that is given again."""
        if path in self._lines:
            for notes in (self._lines, self._unset):
                for known in [known for known in notes if known[: len(path)] == path]:
                    del notes[known]

    def _filled(self, text: str, path: KeyPath, line: int) -> str:
        def fail(problem: str, remedy: str) -> ConfigError:
            return ConfigError(problem, file=self._file, line=line, key=dotted(path), remedy=remedy)

        if "${" not in text:
            return text
        if _OPENED.search(text):
            raise fail("a reference is not closed", "end it with }")
        missing: list[str] = []
        filled = _REFERENCE.sub(lambda match: self._reference(match, missing, fail), text)
        if not missing:
            return filled
        self._unset[path] = missing[0]
        return UnsetVariable(text)

    def _reference(
        self, match: re.Match[str], missing: list[str], fail: Callable[[str, str], ConfigError]
    ) -> str:
        if match["escaped"]:
            return "${"
        kind, _, rest = match["body"].partition(":")
        if kind == "FILE" and rest:
            return self._file_text(rest, fail)
        name, given, default = rest.partition(":-")
        if kind != "ENV" or not _ENV_NAME.fullmatch(name):
            raise fail(
                f"{match[0]} is not a reference that is known here",
                "write ${ENV:NAME}, ${ENV:NAME:-default} or ${FILE:path}; $${ stands for a plain ${",
            )
        value = self._environ.get(name)
        if given:
            return value or default
        if value is None:
            missing.append(name)
        return value or ""

    def _file_text(self, name: str, fail: Callable[[str, str], ConfigError]) -> str:
        path = self._file.parent / Path(name).expanduser()
        try:
            return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise fail(f"{path} cannot be read: {error.strerror}", "create it or correct the path") from error
        except UnicodeDecodeError as error:
            raise fail(f"the file {path} is not UTF-8 text", "save it as UTF-8") from error
