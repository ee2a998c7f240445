"""Sensitive words in a text that is shown while it grows: nothing shown is ever taken back."""

from __future__ import annotations

from plugins.moderation.folding import fold, fold_open, owners
from plugins.moderation.lexicon import MASK, Lexicon, masked
from plugins.moderation.words import Word

_BEFORE = "\u16e3"
"""A letter (a rune) that stands for the beginning of a word which is given out already."""


class StreamFilter:
    """Lets text pass, words masked; holds back what may be the beginning of one; ends at a blocked one.

    `stopped` is the blocked word that was reached, `found` whether there was any word.
    """

    def __init__(self, lexicon: Lexicon, *, pinyin: bool = True) -> None:
        self.stopped: Word | None = None
        self.found = False
        self._lexicon = lexicon
        self._pinyin = pinyin
        self._held = ""
        self._masked = 0
        self._inside = False

    def push(self, text: str) -> str:
        """What of the held-back and this text may be given out; nothing once a blocked word was reached."""
        self._held += text
        return self._pass(whole=False)

    def end(self) -> str:
        """What is held back, now that no more comes."""
        return self._pass(whole=True)

    def _pass(self, *, whole: bool) -> str:
        if self.stopped is not None or not self._held:
            return ""
        before = _BEFORE if self._inside else ""
        text = before + self._held
        folded, is_open = (fold(text), False) if whole else fold_open(text)
        hits = self._lexicon.hits(text, folded=folded, pinyin=self._pinyin)
        self.found = self.found or bool(hits)
        letters = 0 if whole else self._lexicon.held(folded)
        cut = owners(text)[-letters] if letters else len(text)
        blocked = min(
            (hit for hit in hits if hit.word.action == "block"), key=lambda hit: hit.start, default=None
        )
        if blocked is not None:
            self.stopped, cut = blocked.word, min(cut, blocked.start)
        shown = MASK * self._masked + masked(text, hits)[len(before) + self._masked :]
        self._held = self._held[cut - len(before) :]
        self._masked = max(
            [0, self._masked + len(before) - cut, *(hit.end - cut for hit in hits if hit.start < cut)]
        )
        self._inside = is_open and not self._held
        return shown[: cut - len(before)]
