"""Chat models of other families (Llama, Qwen2, Yi, Phi-3, GLM-4 ...) through transformers' own classes.

One request at a time. The chat template is the tokenizer's; the answer ends at the end tokens of
generation_config.json and of the tokenizer.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor

from model import memory
from model.config import read_config
from model.family_folder import check_family, open_config, open_network, open_tokenizer, weight_bytes
from model.kernels.choice import choose
from model.language_model import DType, choose_device, choose_dtype
from model.memory import MemoryPlan
from model.quantize import quantize_int4, quantize_int8
from model.quantized_linear import quantize_layers
from model.sampling import Sampler
from model.stop import StopStrings
from model.types import Delta, Device, GenerationParams, ModelError, PromptTooLong, Quantization, Turn

log = structlog.get_logger(__name__)

PREFILL = 256
"""Tokens of a prompt read at once; between two such pieces the request can be given up."""
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
"""What transformers takes where a generation_config.json is silent."""
USUAL_CONTEXT = 8_192
"""Tokens where nobody asks for more: many families are made for so many that their KV cache would not fit."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def load_family(
    folder: Path,
    *,
    device: Device = "auto",
    quantization: Quantization = "int4",
    dtype: DType = "auto",
    max_context: int | None = None,
) -> TransformersModel:
    """Load a folder that transformers has a class for. Raises ModelError.

    Quantised are the linear layers between embedding and output matrix, anew at every load: INT4 scales are
    searched as for ChatGLM-6B, at some 20 million weights a second and CPU core. dtype "auto" is float32 on
    the CPU, else that of the weights: not every family stays finite in float16. max_context: as in
    TransformersModel.
    """
    check_family(read_config(folder), folder)
    place = choose_device(device)
    config = open_config(folder)
    tokenizer = open_tokenizer(folder)
    widened = dtype == "auto" and place.type == "cpu"
    stored = None if dtype == "auto" else choose_dtype(dtype, place).itemsize
    size = weight_bytes(folder, 4 if widened and quantization == "none" else stored)
    context = _context(config, max_context)
    plan = MemoryPlan(size, _kv_bytes(config, context), 0, context, "float32")
    memory.check(plan, torch.device("cpu"), file=folder)
    network = open_network(folder, dtype)
    kernels = "PyTorch"
    try:
        if quantization != "none":
            choice = choose(place, torch.float32 if widened else network.dtype, exact=dtype == "float32")
            quantize = quantize_int8 if quantization == "int8" else quantize_int4
            quantize_layers(network, quantize, choice.operations, place)
            kernels = str(choice)
        network.to(place, torch.float32 if widened else None)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"does not fit into the memory of {place.type}",
            file=folder,
            remedy="use int4, or model.device: cpu",
        ) from None
    name = folder.resolve().name
    return TransformersModel(name, tokenizer, network, max_context=max_context, kernels=kernels)


def _context(config: Any, wanted: int | None) -> int:
    """Tokens of prompt and answer: as many as are wanted and the network is made for."""
    made_for = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(wanted or USUAL_CONTEXT, made_for or USUAL_CONTEXT)


def _kv_bytes(config: Any, context: int) -> int:
    """Bytes of a float32 KV cache."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * 4 * context * text.num_hidden_layers * heads * size)


class TransformersModel:
    """A causal language model of transformers with its tokenizer.

    One thread at a time may use it; `count_tokens` may be called by others meanwhile.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        network: Any,
        *,
        max_context: int | None = None,
        kernels: str = "PyTorch",
    ) -> None:
        """`max_context`: tokens of prompt and answer, None is the usual; at most what the network can.

        kernels: what computes the linear layers, for people.
        """
        self.name = name
        self.kernels = kernels
        self.max_context = _context(network.config, max_context)
        self.tokenizer = tokenizer
        self.network = network
        self._lock = threading.Lock()  # a tokenizer is not for two threads at once
        self._ends = _end_tokens(network.generation_config.eos_token_id, tokenizer.eos_token_id)
        self._signs = _signs(tokenizer)
        accepted = inspect.signature(network.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"  # older transformers

    def close(self) -> None:
        """Let go of the weights."""
        del self.network

    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._encode(text))

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after every token, float32 [tokens, vocab], in one pass."""
        scores: Tensor = self.network(torch.tensor([ids], device=self.network.device)).logits
        return scores[0].float()

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        """The answer to a query, a delta for each token (perhaps without text); the last one has a `finish`.

        The oldest rounds that do not fit the context are left out. Where temperature, top_p, top_k or
        repetition_penalty have their defaults, those of generation_config.json hold, if it samples. Closing
        the iterator gives up. Raises ModelError.
        """
        if params.prefix is not None:
            raise ModelError(f"{self.name} takes no prefixes", remedy="take model.prefixes out")
        params = self._own_sampling(params)
        ids = self._prompt(query, history, params.max_new_tokens)
        sampler = Sampler(params, fallback_id=min(self._ends, default=0))
        decoder, stop = _StreamDecoder(self.tokenizer), StopStrings(params.stop)
        cache = self._new_cache()
        logits = self._read(ids[:PREFILL], cache)
        for start in range(PREFILL, len(ids), PREFILL):
            yield Delta("")
            logits = self._read(ids[start : start + PREFILL], cache)
        for left in range(params.max_new_tokens, 0, -1):
            token = sampler.next(logits, ids)
            if token in self._ends:
                yield Delta(stop.push(decoder.end()) + stop.end(), "stop")
                return
            ids.append(token)
            text = stop.push(decoder.push(token))
            if stop.reached:
                yield Delta(text, "stop")
                return
            yield Delta(text)
            if left > 1:
                logits = self._read([token], cache)
        text = stop.push(decoder.end())
        yield Delta(text + stop.end(), "stop" if stop.reached else "length")

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.network.config)

    @torch.no_grad()
    def _read(self, ids: Sequence[int], cache: Any) -> Tensor:
        """The logits [vocab] after the last of `ids`, which the cache holds from now on."""
        inputs = torch.tensor([ids], device=self.network.device)
        options = {self._cache_name: cache, "use_cache": True, **self._last_only}
        logits: Tensor = self.network(input_ids=inputs, **options).logits
        return logits[0, -1]

    def _own_sampling(self, params: GenerationParams) -> GenerationParams:
        """The model's own values, if it has any, where the caller left the defaults."""
        config, plain = self.network.generation_config, GenerationParams()
        own: dict[str, Any] = {}
        for name, usual in SAMPLING.items():
            if config.do_sample and getattr(params, name) == getattr(plain, name):
                value = getattr(config, name)
                own[name] = usual if value is None else value
        return replace(params, **own)

    # -- the prompt -------------------------------------------------------------------------

    def _prompt(self, query: str, history: Sequence[Turn], max_new_tokens: int) -> list[int]:
        """The ids of history and query, the oldest rounds left out as the context demands."""
        room = self.max_context - max_new_tokens
        ids: list[int] = []
        for dropped in range(len(history) + 1):
            ids = self._encode(self._render(query, history[dropped:]))
            if len(ids) <= room:
                if dropped:
                    log.info("old rounds left out of the prompt", rounds=dropped, context=self.max_context)
                self._check_ids(ids)
                return ids
        bare = len(self._encode(self._plain(query)))
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens, the answer may have {max_new_tokens},"
            f" both together {self.max_context}",
            tokens=bare,
            room=room - (len(ids) - bare),  # the rest is the template's
            remedy="shorten the question, or set max_new_tokens lower or model.max_context higher",
        )

    def _render(self, query: str, rounds: Sequence[Turn]) -> str:
        """The prompt by the chat template, without thinking aloud. Raises ModelError where it fails."""
        messages = []
        for turn in rounds:
            messages.append({"role": "user", "content": self._plain(turn.question)})
            messages.append({"role": "assistant", "content": self._plain(turn.answer)})
        messages.append({"role": "user", "content": self._plain(query)})
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        except Exception as error:  # the template is a program of the folder's, in jinja's sandbox
            raise ModelError(
                f"the chat template of {self.name} fails: {error}",
                remedy="use the chat template that came with the model",
            ) from error
        return text

    def _plain(self, text: str) -> str:
        """The text with typed signs of the template parted: nobody ends a turn by writing `<|im_end|>`."""
        for sign in self._signs:
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
        return text

    def _encode(self, text: str) -> list[int]:
        with self._lock:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Raise ModelError for ids that the network has no row for; a GPU would stop at them for good."""
        rows = self.network.get_input_embeddings().weight.shape[0]
        if max(ids) >= rows:
            raise ModelError(
                f"the tokenizer of {self.name} gives the id {max(ids)}, the network knows {rows}",
                remedy="use the tokenizer that came with the weights",
            )


class _StreamDecoder:
    """Tokens to text, piece by piece: what is given out is never revised and has no half characters."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = 0  # ids are decoded from here on: the text of a token may hang on the one before it
        self._shown = 0  # ids before this one are given out

    def push(self, token: int) -> str:
        """The text that this token completes."""
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):  # the rest of this character comes with the next token
            return ""
        self._begin, self._shown = self._shown, len(self._ids)
        return text.replace(REPLACEMENT, "")

    def end(self) -> str:
        """The text not yet given out, now that no more comes."""
        return self._new_text().replace(REPLACEMENT, "")

    def _new_text(self) -> str:
        before = self._decode(self._ids[self._begin : self._shown])
        return self._decode(self._ids[self._begin :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _end_tokens(*sources: int | Sequence[int] | None) -> frozenset[int]:
    """All ids that end an answer, from sources that name one, several or none."""
    ids: set[int] = set()
    for source in sources:
        if source is not None:
            ids.update([source] if isinstance(source, int) else source)
    return frozenset(ids)


def _signs(tokenizer: Any) -> list[str]:
    """Texts of one token that structure a prompt: special ones, and those that the chat template writes."""
    added = tokenizer.added_tokens_decoder.values()
    template = tokenizer.get_chat_template()
    signs = {token.content for token in added if token.special or token.content in template}
    return sorted(sign for sign in signs if len(sign) > 1 and not sign.isspace())
