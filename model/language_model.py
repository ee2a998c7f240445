"""A loaded ChatGLM-6B: ids to logits, ids to ids, and text to text."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import structlog
import torch
from torch import Tensor

from model.answer_text import AnswerText
from model.chatglm import ChatGLM
from model.config import ChatGLMConfig
from model.kernels.choice import choose
from model.kernels.fused import Fused
from model.kv_cache import PAGE, KVCache, KVPages, OutOfPages, choose_storage, page_count
from model.loading import load_weights
from model.packed import is_packed
from model.prefix import Prefix, load_prefix
from model.prompt import build_inputs, fit_rounds
from model.sampling import BLANK_ID, Sampler
from model.tensor_file import weight_files
from model.tokenizer import Tokenizer
from model.types import Delta, Device, GenerationParams, KVType, ModelError, Quantization, Turn, Usage

log = structlog.get_logger(__name__)

DType: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]


def load(
    path: str | Path,
    *,
    device: Device = "auto",
    quantization: Quantization = "int4",
    dtype: DType = "auto",
    kv_cache: KVType = "auto",
    max_context: int | None = None,
) -> LanguageModel:
    """Load a folder or file in any published form, or the project's packed file. Raises ModelError.

    What a published INT8 or INT4 form stores is kept as stored, whatever `quantization` says. A packed file
    goes before published weights in the same folder.
    dtype: "float32" is the exact path, on which no activation is ever quantised and keys and values are kept
    in float32; "auto" is the fastest of the device. kv_cache: how keys and values are stored else; "auto" is
    fp16. max_context: tokens of prompt and answer; None is what the model was trained for.
    """
    for name, value, known in (
        ("device", device, get_args(Device)),
        ("quantization", quantization, get_args(Quantization)),
        ("dtype", dtype, get_args(DType)),
        ("kv_cache", kv_cache, get_args(KVType)),
    ):
        if value not in known:
            raise ModelError(f"there is no {name} {value!r}", remedy=f"choose from {', '.join(known)}")
    if max_context is not None and max_context < 1:
        raise ModelError(f"max_context cannot be {max_context}", remedy="give a number of tokens")
    path = Path(path)
    chosen = choose_device(device)
    floats = choose_dtype(dtype, chosen)
    choice = choose(chosen, floats, exact=dtype == "float32")
    operations = choice.operations
    storage = choose_storage(kv_cache, exact=operations.exact)
    config, weights = load_weights(
        path,
        quantization=quantization,
        dtype=floats,
        device=chosen,
        storage=storage,
        context=max_context,
        prepare=operations.prepare,
    )
    if unused := unused_weights(path):
        log.info("the packed file is used, not the published weights beside it", unused=unused[0].name)
    if isinstance(operations, Fused):  # now, rather than one after the other while the first answer is made
        operations.prepare_kernels(weights, storage)
    if choice.has_own_threads:  # torch's keep spinning on the same cores for a while after each operation
        torch.set_num_threads(1)
    network, context = ChatGLM(config, weights, operations), max_context or config.max_sequence_length
    # the tokenizer is looked for later, when the working directory may be another
    return LanguageModel(
        network, path.absolute(), max_context=context, kv_cache=kv_cache, kernels=str(choice)
    )


def unused_weights(path: Path) -> tuple[Path, ...]:
    """Published weights that lie in a folder beside the packed file that is used."""
    if not path.is_dir() or not is_packed(path):
        return ()
    try:
        return tuple(file for file in weight_files(path) if not is_packed(file))
    except ModelError:  # there are none, or not all of them
        return ()


def choose_device(device: Device) -> torch.device:
    """The device of that name, or the best there is. Raises ModelError where it is missing."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[device]:
        remedy = "set model.device to auto or cpu"
        if device == "cuda":
            lacks = "PyTorch for CUDA" if torch.version.cuda is None else "a driver that is new enough for it"
            remedy += f"; to use an NVIDIA card, install {lacks}"
        raise ModelError(f"there is no device {device!r} here", remedy=remedy)
    return torch.device(device)


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype of activations: halves where the device is fast in them."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]


class LanguageModel:
    """The network with its tokenizer, one request at a time; not safe in two threads at once."""

    def __init__(
        self,
        network: ChatGLM,
        path: Path,
        *,
        max_context: int,
        kv_cache: KVType = "auto",
        kernels: str | None = None,
    ) -> None:
        """`path`: where it was loaded from; the tokenizer's file lies there too, or is not needed.

        kv_cache: how keys and values are stored where nothing is to be exact. kernels: what computes, for
        people; None is the name of the network's operations.
        """
        self.network = network
        self.path = path
        self.folder = path.parent if path.is_file() else path
        self.max_context = max_context
        self.kernels = kernels or network.operations.name
        self.storage = choose_storage(kv_cache, exact=network.operations.exact)
        self.prefixes: dict[str, Prefix] = {}
        self._pool: tuple[KVPages, dict[Prefix, KVCache]] | None = None

    @property
    def name(self) -> str:
        """The name of the folder or file."""
        return self.path.stem if self.path != self.folder else self.path.resolve().name

    @property
    def config(self) -> ChatGLMConfig:
        """Sizes and special ids."""
        return self.network.config

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that lies beside the weights. Raises ModelError if it is missing or another's."""
        tokenizer = Tokenizer(self.folder)
        tokenizer.check(self.config)
        return tokenizer

    @property
    def pages(self) -> KVPages:
        """Those of a single talk and of the prefixes, for `generate` and `stream`."""
        return self._open_pool()[0]

    def load_prefix(self, name: str, path: Path) -> Prefix:
        """Keep a P-Tuning v2 prefix resident under a name, for `GenerationParams.prefix`."""
        self.prefixes[name] = load_prefix(path, self)
        self._pool = None
        return self.prefixes[name]

    def renewed_network(self) -> ChatGLM:
        """The same network over the same weights, with threads of its own where it has some."""
        network = self.network
        choice = choose(network.device, network.dtype, exact=network.operations.exact)
        return ChatGLM(network.config, network.weights, choice.operations)

    def close(self) -> None:
        """Let go of the weights."""
        del self.network
        self.prefixes.clear()
        self._pool = None

    # -- ids --------------------------------------------------------------------------------

    def logits(self, ids: Sequence[int], prefix: Prefix | None = None) -> Tensor:
        """Logits after each token of prompt, [gMASK], <sop>, answer, float32 [tokens, vocab], in one pass."""
        return self.network.logits(list(ids), prefix)

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int = 8,
        temperature: float = 0.0,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        prefix: Prefix | None = None,
    ) -> Iterator[int]:
        """The ids of the answer, one by one; <eop> ends it and is not among them. Temperature 0 is greedy."""
        params = GenerationParams(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
        steps = self._generate(list(ids), params, Sampler(params), prefix)
        return (token for token in steps if token is not None)

    def _generate(
        self, ids: list[int], params: GenerationParams, sampler: Sampler, prefix: Prefix | None
    ) -> Generator[int | None]:
        """The tokens of the answer; None after each half layer of the prompt."""
        room = self.max_context - len(ids)
        if room <= 0:
            raise ModelError(
                f"the prompt has {len(ids)} tokens, prompt and answer may have {self.max_context}",
                remedy="shorten the prompt or raise model.max_context",
            )
        split = self.network.split(ids)
        room = min(params.max_new_tokens, room)
        with closing(self._new_cache(prefix, len(ids) + room)) as cache:
            reading = self.network.reading([split], [cache])
            while not reading.step():
                yield None
            logits = self.network.extend([split.answer], [cache])[0]
            for left in range(room, 0, -1):
                token = sampler.next(logits, ids)
                if token == self.config.eos_token_id:
                    return
                yield token
                ids.append(token)
                if left > 1:
                    logits = self.network.decode([token], [cache])[0]

    def _open_pool(self) -> tuple[KVPages, dict[Prefix, KVCache]]:
        """Pages for one talk as long as the context, and those of the prefixes, which it shares.

        Made when first wanted: who serves many at once has a pool of its own.
        """
        if self._pool is None:
            lengths = [prefix.length for prefix in self.prefixes.values()]
            talk = page_count(self.max_context + max((length % PAGE for length in lengths), default=0))
            pages = self.network.new_pages(talk + sum(map(page_count, lengths)), self.storage)
            held = {prefix: self.network.prefix_cache(prefix, pages) for prefix in self.prefixes.values()}
            self._pool = pages, held
        return self._pool

    def _new_cache(self, prefix: Prefix | None, tokens: int) -> KVCache:
        """A cache with the pages for so many tokens after the prefix. Raises OutOfPages."""
        pages, held = self._open_pool()
        if prefix is None:
            cache = KVCache(pages)
        elif prefix in held:
            cache = held[prefix].fork()
        else:  # not a resident one: in pages of its own
            count = page_count(prefix.length + tokens)
            cache = self.network.prefix_cache(prefix, self.network.new_pages(count, self.storage))
        try:
            cache.reserve(tokens)
        except OutOfPages:
            cache.close()
            raise
        return cache

    # -- text -------------------------------------------------------------------------------

    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text))

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        """The answer to a query, a delta for each token (perhaps without text), none of it revised later.

        The last delta says why it ended. The oldest rounds that do not fit the context are left out.
        Closing the iterator gives up. Raises ModelError.
        """
        prefix = self._prefix(params.prefix)
        prompt = self.prompt(query, history, params)
        sampler = Sampler(params, fallback_id=BLANK_ID, limit=len(self.tokenizer))
        text = AnswerText(self.tokenizer, params.stop)
        length = len(prompt)  # which grows as tokens are drawn
        asked = min(params.max_new_tokens, self.max_context - length)
        with closing(self._generate(prompt, params, sampler, prefix)) as tokens:
            for token in tokens:
                more = "" if token is None else text.push(token)
                if text.stopped:
                    break
                yield Delta(more)
            else:
                more = ""
        finish: Literal["stop", "length"] = "length" if text.tokens >= asked and not text.stopped else "stop"
        yield Delta(more + text.end(), finish, Usage(length, text.tokens))

    def prompt(self, query: str, history: Sequence[Turn], params: GenerationParams) -> list[int]:
        """The ids of query and history, the oldest rounds left out as the context demands."""
        room = self.max_context - params.max_new_tokens - 2
        rounds = [(turn.question, turn.answer) for turn in history]
        fitted = fit_rounds(query, rounds, room, self.tokenizer.encode)
        if fitted.dropped:
            log.info("old rounds left out of the prompt", rounds=fitted.dropped, context=self.max_context)
        return build_inputs(fitted.ids, self.config)

    def _prefix(self, name: str | None) -> Prefix | None:
        if name is None:
            return None
        if name not in self.prefixes:
            known = ", ".join(sorted(self.prefixes)) or "none"
            raise ModelError(f"there is no prefix {name!r}, only {known}", remedy="add it to model.prefixes")
        return self.prefixes[name]
