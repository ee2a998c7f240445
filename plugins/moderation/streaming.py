"""Hides words in a text that is shown as it grows: what may be the beginning of one waits."""

from __future__ import annotations

from plugins.moderation.words import Words


class HidingStream:
    """What was given out is never revised; `found` counts the words that were hidden."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._before = ""
        """The last character that was given out: whether a word stands by itself hangs on it."""
        self._held = ""
        self.found = 0

    def push(self, text: str) -> str:
        """What is certain now of the text so far."""
        self._held += text
        whole, begin = self._before + self._held, len(self._before)
        end = self._words.open_end(whole, begin)
        for one in self._words.find(whole, begin=begin):
            if one.start < end and (one.end > end or one.end == len(whole)):
                end = one.start  # it may go on, or turn out to be a part of another word
        return self._give(end - begin)

    def end(self) -> str:
        """The rest, when no more follows."""
        return self._give(len(self._held))

    def _give(self, count: int) -> str:
        begin = len(self._before)
        shown, found = self._words.hide(self._before + self._held, begin=begin)
        self.found += sum(one.end <= begin + count for one in found)
        given = shown[begin : begin + count]
        if count:
            self._before, self._held = self._held[count - 1], self._held[count:]
        return given
