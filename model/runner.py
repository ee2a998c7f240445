"""What the engine needs of a model, and ChatGLM as that: prompts in, tokens out, pages held meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch

from model.chatglm import ChatGLM
from model.decoder import Decoder, Step
from model.kernels.fused import Fused
from model.kv_cache import PAGE, KVCache, KVPages, OutOfPages, Storage, page_count
from model.language_model import LanguageModel
from model.prefix import Prefix
from model.reading import Reading
from model.sampling import BLANK_ID, Sampler
from model.types import GenerationParams, ModelError

ROWS = 64
"""Of a slice of reading: fewer would read the weights too often for what they compute."""
CARD_ROWS = 2048
"""The same on a graphics card, where so many are as quick."""
REMEMBERED = 8
"""Prompts whose keys and values stay for a while, in pages that nobody else wants."""

_OUT_OF_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")
"""What torch's CPU allocator, CUDA and its libraries say."""

Outcome: TypeAlias = int | Exception
"""The next token of an answer, or what went wrong with it alone."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: with [gMASK] and <sop> at the end. most: tokens of the answer at most, one or more."""

    ids: tuple[int, ...]
    most: int
    params: GenerationParams = field(default_factory=GenerationParams)

    @property
    def key(self) -> tuple[str | None, tuple[int, ...]]:
        """What its keys and values hang on."""
        return self.params.prefix, self.ids


class Answer:
    """An answer in the making: what was read of it, and the token that is read next."""

    __slots__ = ("cache", "ids", "pending", "prompt", "sampler")

    def __init__(self, prompt: Prompt, cache: KVCache, sampler: Sampler, pending: list[int]) -> None:
        self.prompt = prompt
        self.cache = cache
        self.sampler = sampler
        self.pending = pending
        self.ids = list(prompt.ids)


class Runner(Protocol):
    """A model as the engine drives it, in one thread; `pages_for` may be asked by any."""

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def problem(self) -> str:
        """Why its device is lost until the process starts anew; empty as long as it works."""
        ...

    def pages_for(self, prompt: Prompt) -> int:
        """Pages that it will fill with its answer."""
        ...

    def open(self, prompt: Prompt) -> tuple[Answer, bool]:
        """Take its pages; True says that it need not be read, because the same was read before."""
        ...

    def reading(self, answers: Sequence[Answer]) -> Reading:
        """Their prompts, to be read together."""
        ...

    def has_read(self, answer: Answer) -> None:
        """Its prompt is in its pages now."""
        ...

    def decode(self, answers: Sequence[Answer]) -> list[Outcome]:
        """The next token of each. Raises what is not the fault of a single one."""
        ...

    def close(self, answer: Answer) -> None:
        """Give its pages back."""
        ...

    def forget(self) -> None:
        """Give up all memory that nobody's answer needs."""
        ...

    def renew(self) -> Runner:
        """Another one over the same weights, which shares nothing with this one that could be stuck.

        Raises ModelError where there can be none.
        """
        ...


class ChatGLMRunner:
    """ChatGLM over a pool of pages; prefixes are in pages of their own."""

    def __init__(
        self,
        network: ChatGLM,
        *,
        pages: int,
        storage: Storage,
        vocabulary: int | None = None,
        prefixes: dict[str, Prefix] | None = None,
        renew_network: Callable[[], ChatGLM] | None = None,
        context: int | None = None,
        rows: int | None = None,
    ) -> None:
        """pages: for answers. vocabulary: tokens that may be drawn; the rows after them are padding.

        context: tokens of prompt and answer at most; None is what the network was trained for. rows: of a
        slice of reading; None is what suits the device.
        """
        self._network = network
        self._count = pages
        self._storage = storage
        self._vocabulary = vocabulary
        self._prefixes = prefixes or {}
        self._renew_network = renew_network
        self._context = context or network.config.max_sequence_length
        self._rows = rows or (ROWS if network.device.type == "cpu" else CARD_ROWS)
        held = sum(page_count(prefix.length) for prefix in self._prefixes.values())
        self.pages = _new_pages(network, pages + held, storage)
        self._held = {
            name: network.prefix_cache(prefix, self.pages) for name, prefix in self._prefixes.items()
        }
        self._remembered: OrderedDict[tuple[str | None, tuple[int, ...]], KVCache] = OrderedDict()
        self._decoder = self._new_decoder(network)

    @classmethod
    def of(cls, model: LanguageModel, pages: int) -> ChatGLMRunner:
        """Over a loaded model's weights and prefixes."""
        return cls(
            model.network,
            pages=pages,
            storage=model.storage,
            vocabulary=len(model.tokenizer),
            prefixes=model.prefixes,
            renew_network=model.renewed_network,
            context=model.max_context,
        )

    @property
    def end(self) -> int:
        """See `Runner`; like all below."""
        return self._network.config.eos_token_id

    @property
    def problem(self) -> str:
        device = self._network.device
        if device.type == "cuda":
            try:
                torch.cuda.synchronize(device)  # after some errors nothing works any more in this process
            except RuntimeError as error:
                return f"the graphics card is lost: {str(error).partition(chr(10))[0]}"
        return ""

    def pages_for(self, prompt: Prompt) -> int:
        return self._missing(prompt, self._held_for(prompt))

    def open(self, prompt: Prompt) -> tuple[Answer, bool]:
        split = self._network.split(prompt.ids)
        sampler = Sampler(prompt.params, fallback_id=BLANK_ID, limit=self._vocabulary)
        start = known = self._remembered.get(prompt.key)
        if known is not None:
            self._remembered.move_to_end(prompt.key)
            if not self._make_room(self._missing(prompt, known), spare=known):
                start = known = None
        if known is None:
            start = self._held_for(prompt)
            self._make_room(self._missing(prompt, start))
        cache = KVCache(self.pages) if start is None else start.fork()
        try:
            unread = prompt.ids if known is None else split.answer
            cache.reserve(len(unread) + prompt.most - 1)
        except OutOfPages:
            cache.close()
            raise
        return Answer(prompt, cache, sampler, list(split.answer)), known is not None

    def reading(self, answers: Sequence[Answer]) -> Reading:
        splits = [self._network.split(answer.prompt.ids) for answer in answers]
        return self._network.reading(splits, [answer.cache for answer in answers], rows=self._rows)

    def has_read(self, answer: Answer) -> None:
        """Keep a copy for who asks the same again, where a page is free for its last tokens."""
        if self.pages.free == 0 or answer.prompt.key in self._remembered:
            return
        self._remembered[answer.prompt.key] = answer.cache.fork()
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)[1].close()

    def decode(self, answers: Sequence[Answer]) -> list[Outcome]:
        outcomes = self._decode_on_card(answers)
        return self._decode(answers) if outcomes is None else outcomes

    def _decode_on_card(self, answers: Sequence[Answer]) -> list[Outcome] | None:
        """None where that cannot be done on one."""
        if self._decoder is None or not self._decoder.takes([answer.cache for answer in answers]):
            return None
        if any(len(answer.pending) != 1 for answer in answers):
            return None
        steps = [Step(answer.pending[0], answer.cache, answer.sampler, answer.ids) for answer in answers]
        tokens = self._decoder.step(steps)
        for answer, token in zip(answers, tokens, strict=True):
            answer.pending = [token]
            answer.ids.append(token)
        return list(tokens)

    def _decode(self, answers: Sequence[Answer]) -> list[Outcome]:
        logits = self._network.extend(
            [answer.pending for answer in answers], [answer.cache for answer in answers]
        )
        outcomes: list[Outcome] = []
        for answer, row in zip(answers, logits, strict=True):
            try:
                token = answer.sampler.next(row, answer.ids)
            except Exception as error:  # of its parameters: the others are not concerned
                outcomes.append(error)
                continue
            answer.pending = [token]
            answer.ids.append(token)
            outcomes.append(token)
        return outcomes

    def close(self, answer: Answer) -> None:
        answer.cache.close()

    def renew(self) -> ChatGLMRunner:
        assert self._renew_network is not None
        if self._network.device.type == "cuda":  # whatever is launched now waits for what is stuck
            raise ModelError("its graphics card does not come to an end")
        return ChatGLMRunner(
            self._renew_network(),
            pages=self._count,
            storage=self._storage,
            vocabulary=self._vocabulary,
            prefixes=self._prefixes,
            renew_network=self._renew_network,
            context=self._context,
            rows=self._rows,
        )

    def forget(self) -> None:
        while self._remembered:
            self._remembered.popitem(last=False)[1].close()
        if self._decoder is not None:
            self._decoder.forget_graphs()

    def _new_decoder(self, network: ChatGLM) -> Decoder | None:
        """What makes whole steps on a graphics card, where kernels do all of them."""
        operations = network.operations
        if not isinstance(operations, Fused) or not Decoder.fits(network, self.pages):
            return None
        longest = self._context + max((prefix.length for prefix in self._prefixes.values()), default=0)
        return Decoder(network, operations, self.pages, limit=self._vocabulary, longest=longest)

    def _held_for(self, prompt: Prompt) -> KVCache | None:
        """Its prefix."""
        return None if prompt.params.prefix is None else self._held[prompt.params.prefix]

    def _missing(self, prompt: Prompt, start: KVCache | None) -> int:
        """Pages that it takes from the pool where it begins with `start`, whose full ones are shared.

        The last token of an answer is never read.
        """
        held = self._held_for(prompt)
        before = 0 if held is None else held.length
        shared = 0 if start is None else start.length // PAGE
        return page_count(before + len(prompt.ids) + prompt.most - 1) - shared

    def _make_room(self, pages: int, *, spare: KVCache | None = None) -> bool:
        """Forget the oldest prompts but one until so many pages are free, and say if they are."""
        for key in list(self._remembered):
            if self.pages.free >= pages:
                break
            if self._remembered[key] is not spare:
                self._remembered.pop(key).close()
        return self.pages.free >= pages


def _new_pages(network: ChatGLM, count: int, storage: Storage) -> KVPages:
    try:
        return network.new_pages(count, storage)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"there is no memory for {count} pages of the KV cache ({storage})",
            remedy="lower model.memory or model.max_running, or take a smaller model.kv_cache",
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device had no room for an operation; smaller ones may fit."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError | ModelError):
        return False
    return any(told in str(error) for told in _OUT_OF_MEMORY)
