"""The chat format of ChatGLM-6B: rounds in, tidied answers out (spec/chatglm-6b.md, sections 6 to 8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.config import ChatGLMConfig
from model.types import PromptTooLong

_YEAR_MARK, _YEAR = "[[训练时间]]", "2023年"
_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_HAN = "[\u4e00-\u9fff]"
_BESIDE_HAN = re.compile(f"(?<={_HAN})[,!:;?]|[,!:;?](?={_HAN})")
"""The reference makes two passes for each mark; neither touches what another looks at, so one is the same."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt inside its budget, with its ids; `dropped` oldest rounds had no room."""

    prompt: str
    ids: list[int]
    dropped: int


def format_chat(query: str, history: Sequence[tuple[str, str]]) -> str:
    """The prompt text: rounds count from 0, and without history it is the bare query."""
    if not history:
        return query
    rounds = [_round(number, *turn) for number, turn in enumerate(history)]
    return "".join(rounds) + _round(len(history), query)


def build_inputs(ids: Sequence[int], config: ChatGLMConfig) -> list[int]:
    """The ids of a prompt, ready for the model: [gMASK] and <sop> come last."""
    return [*ids, config.gmask_token_id, config.bos_token_id]


def fit_rounds(
    query: str, history: Sequence[tuple[str, str]], budget: int, encode: Callable[[str], list[int]]
) -> Fitted:
    """The prompt with as many of the latest rounds as fit; dropped ones are whole, the rest count from 0.

    `budget` is in ids of the prompt's text, which `encode` gives. Raises PromptTooLong when not even the
    bare query fits. Rounds are counted one by one, from the latest, until the budget is spent: a long history
    costs no more than a full prompt.
    """
    bare = len(encode(query))
    if bare > budget:
        raise PromptTooLong(
            f"prompt longer than the context: {bare} tokens, and {max(budget, 0)} have room",
            tokens=bare,
            room=budget,
            remedy="shorten the question, or ask for a shorter answer (max_new_tokens)",
        )
    newline = len(encode("\n"))

    def cost(text: str) -> int:
        # as inside a prompt: after a newline, which no piece spans, and without the dummy prefix
        return len(encode("\n" + text)) - newline

    kept, room = 0, budget - cost(_round(0, query))
    while kept < len(history):
        room -= cost(_round(kept, *history[-1 - kept]))
        if room < 0:
            break
        kept += 1

    def latest(rounds: int) -> Fitted:
        prompt = format_chat(query, history[len(history) - rounds :])
        return Fitted(prompt, encode(prompt), len(history) - rounds)

    # parts need not add up exactly to the whole, which alone decides
    fitted = latest(kept)
    while kept and len(fitted.ids) > budget:
        kept -= 1
        fitted = latest(kept)
    return fitted


def process_response(text: str) -> str:
    """An answer as it is shown: stripped, the year filled in, punctuation beside Han full-width."""
    return _widen(text.strip().replace(_YEAR_MARK, _YEAR))


class ResponseStream:
    """`process_response` of a text as it comes: what was given out is never revised.

    Held back are only blanks at the end, the beginning of a year mark, and one punctuation mark.
    """

    def __init__(self) -> None:
        self._held = ""
        self._last = ""
        """The last character given out; it decides on punctuation that follows."""

    def push(self, text: str) -> str:
        """The processed text that is now certain, perhaps none."""
        self._held += text
        if not self._last:
            self._held = self._held.lstrip()
        return self._give(self._certain())

    def end(self) -> str:
        """The rest, when no text follows."""
        self._held = self._held.rstrip()
        return self._give(len(self._held))

    def _certain(self) -> int:
        """How many characters of the held text nothing that follows can change."""
        held = self._held
        end = len(held.rstrip())
        if end < len(held):
            return end
        for length in range(min(len(_YEAR_MARK) - 1, end), 0, -1):
            if held.endswith(_YEAR_MARK[:length]):
                return end - length
        return end - 1 if held.endswith(tuple(_FULL_WIDTH)) else end

    def _give(self, end: int) -> str:
        ready, self._held = self._held[:end].replace(_YEAR_MARK, _YEAR), self._held[end:]
        if not ready:
            return ""
        # widening keeps lengths, so the neighbour that only decides is cut off again
        shown = _widen(self._last + ready)[len(self._last) :]
        self._last = shown[-1]
        return shown


def _round(number: int, question: str, answer: str | None = None) -> str:
    asked = f"[Round {number}]\n问：{question}\n答："
    return asked if answer is None else f"{asked}{answer}\n"


def _widen(text: str) -> str:
    return _BESIDE_HAN.sub(lambda mark: _FULL_WIDTH[mark[0]], text)
