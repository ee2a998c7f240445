"""Stop strings: text that ends an answer, found before any part of it is given out."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text pass up to the string that is complete first; holds back what may be the beginning of one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.reached = False

    def push(self, text: str) -> str:
        """What of the held-back and this text may be given out; nothing once a string was reached."""
        if self.reached:
            return ""
        text = self._held + text
        found = [
            (place + len(string), place) for string in self._strings if (place := text.find(string)) >= 0
        ]
        if found:
            self.reached, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What is held back, now that no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How many of the last characters of a text begin a string."""
    most = min(len(text), len(string) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(string[:size])), 0)
