"""What a plugin remembers for as long as the bot runs, whether or not it is loaded again meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class Memory:
    """A plugin's values by name: a reload of the plugin leaves them as they are, a restart ends them."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """The value of that name, made when it is first asked for."""
        if name not in self._values:
            self._values[name] = make()
        return cast(T, self._values[name])
