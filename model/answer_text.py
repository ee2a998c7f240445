"""The text of an answer as its tokens come: whole characters, no further than a stop string, tidied."""

from __future__ import annotations

from collections.abc import Sequence

from model.prompt import ResponseStream
from model.stop import StopStrings
from model.tokenizer import StreamDecoder, Tokenizer


class AnswerText:
    """What was given out is never revised; `stopped` says that a stop string ended the answer."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.tokens = 0
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopStrings(stop)
        self._response = ResponseStream()

    @property
    def stopped(self) -> bool:
        """Nothing that comes after counts."""
        return self._stop.reached

    def push(self, token: int) -> str:
        """The text that is certain now, perhaps none."""
        self.tokens += 1
        return self._response.push(self._stop.push(self._decoder.push(token)))

    def end(self) -> str:
        """The rest, when no token follows."""
        rest = "" if self.stopped else self._stop.push(self._decoder.end()) + self._stop.end()
        return self._response.push(rest) + self._response.end()
