"""Messages on their way in and answers on their way out, without the words that are not to be there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from bot import Answer, Attachment, Message, Reply, Stream
from plugins.moderation.lexicon import Lexicon, masked
from plugins.moderation.streaming import StreamFilter
from plugins.moderation.words import Word

AT_ONCE = 4096
"""Characters that are looked at in one go: the event loop waits for them."""


@dataclass(frozen=True, slots=True)
class Screened:
    """A text with its words masked; `found`: there was one; `blocked`: the first that blocks it all."""

    text: str
    found: bool = False
    blocked: Word | None = None


async def screen(lexicon: Lexicon, text: str, *, pinyin: bool) -> Screened:
    """Look at a text, a long one in pieces between which others have their turn."""
    if len(text) <= AT_ONCE:
        hits = lexicon.hits(text, pinyin=pinyin)
        if not hits:
            return Screened(text)
        blocked = next((hit.word for hit in hits if hit.word.action == "block"), None)
        return Screened(masked(text, hits), found=True, blocked=blocked)
    passing, out = StreamFilter(lexicon, pinyin=pinyin), []
    for at in range(0, len(text), AT_ONCE):
        out.append(passing.push(text[at : at + AT_ONCE]))
        await asyncio.sleep(0)
    out.append(passing.end())
    return Screened("".join(out), passing.found, passing.stopped)


async def screen_message(lexicon: Lexicon, message: Message) -> tuple[Message, Screened]:
    """A message as handlers may see it, all its texts screened, and what was found in it."""
    texts = dict.fromkeys((message.text, *(part.text for part in message.segments)))
    seen = {text: await screen(lexicon, text, pinyin=True) for text in texts}
    whole = seen[message.text]
    if not any(item.found for item in seen.values()):
        return message, whole
    blocked = next((item.blocked for item in seen.values() if item.blocked), None)
    segments = tuple(replace(part, text=seen[part.text].text) for part in message.segments)
    return replace(message, text=whole.text, segments=segments), Screened(whole.text, True, blocked)


class Outgoing:
    """Screens answers; `withheld` and `cut` are said in the place of what is blocked.

    withheld: instead of a whole answer. cut: where one ends that is shown already. on_word: called once for
    an answer with a word in it, before it is sent.
    """

    def __init__(
        self, lexicon: Lexicon, withheld: str, cut: str, on_word: Callable[[Word | None], Awaitable[None]]
    ) -> None:
        self._lexicon = lexicon
        self._withheld = withheld
        self._cut = cut
        self._on_word = on_word

    async def answer(self, answer: Answer) -> Answer:
        """The answer as it may be sent."""
        if answer is None:
            return None
        if isinstance(answer, str):
            answer = Reply(answer)
        if isinstance(answer, Reply):
            return await self.reply(answer)
        if not isinstance(answer, Stream):
            answer = Stream(answer)
        texts, _, _ = await self._screened(answer.sources)
        return replace(answer, chunks=self._chunks(answer.chunks), sources=texts)

    async def reply(self, reply: Reply) -> Reply:
        """The reply as it may be sent, with all that is shown beside its text."""
        source = () if reply.source is None else (reply.source,)
        given = (reply.text, *source, *reply.sources, *reply.choices)
        for attached in reply.attachments:
            given += (attached.name, attached.text)
        texts, found, blocked = await self._screened(given)
        if not found:
            return reply
        await self._on_word(blocked)
        if blocked is not None:
            return Reply(self._withheld, miss=True, hand_over=reply.hand_over)
        left = iter(texts)
        return replace(
            reply,
            text=next(left),
            source=None if reply.source is None else next(left),
            sources=tuple(next(left) for _ in reply.sources),
            choices=tuple(next(left) for _ in reply.choices),
            attachments=tuple(_renamed(item, next(left), next(left)) for item in reply.attachments),
        )

    async def _screened(self, texts: tuple[str, ...]) -> tuple[tuple[str, ...], bool, Word | None]:
        """The texts, whether any has a word, and the first word that blocks."""
        seen = [await screen(self._lexicon, text, pinyin=False) for text in texts]
        blocked = next((item.blocked for item in seen if item.blocked), None)
        return tuple(item.text for item in seen), any(item.found for item in seen), blocked

    async def _chunks(self, chunks: AsyncIterator[str]) -> AsyncGenerator[str]:
        """What is streamed, word by word as it may be shown; it ends where a word blocks it."""
        passing = StreamFilter(self._lexicon, pinyin=False)
        try:
            async for chunk in chunks:
                for at in range(0, len(chunk), AT_ONCE):
                    yield passing.push(chunk[at : at + AT_ONCE])
                if passing.stopped is not None:
                    break
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if rest := passing.end():
            yield rest
        if passing.found:
            await self._on_word(passing.stopped)
        if passing.stopped is not None:
            yield self._cut


def _renamed(attached: Attachment, name: str, text: str) -> Attachment:
    return replace(attached, name=name, text=text)
