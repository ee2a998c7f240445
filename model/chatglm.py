"""The network of first-generation ChatGLM (spec/chatglm-6b.md, sections 3 and 4), in a sitting.

A prompt up to and including its [gMASK] sees itself as a whole, so its prefill needs no mask; <sop> and the
answer come after it one by one, each seeing all before it: <sop> is simply the first token to be decoded.
Sequences of a batch stand one after another without padding; only attention tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import kernels
from model.config import ChatGLMConfig
from model.kv_cache import KVCache
from model.prefix import Prefix
from model.types import ModelError
from model.weights import Block, Norm, Weights

ALPHA = math.sqrt(2 * 28)
"""Weight of the residual; the published blocks never learn how many layers there are."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query, key, value), each [tokens, heads, head size] and rotated, to the context of that shape."""


@dataclass(frozen=True, slots=True)
class Split:
    """Ids as the network takes them: what sees itself as a whole, then one token after another."""

    context: Sequence[int]
    answer: Sequence[int]
    mask_position: int


class ChatGLM:
    """The network over given weights; `dtype` is that of the activations and of the KV cache."""

    def __init__(
        self,
        config: ChatGLMConfig,
        weights: Weights,
        *,
        dtype: torch.dtype = torch.float32,
        rotary_dtype: torch.dtype = torch.float32,
    ) -> None:
        """`rotary_dtype`: float16 repeats the tables of the published model on a GPU."""
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.device = weights.final_layernorm.weight.device
        self._rotary_dtype = rotary_dtype
        axes = 2 if config.position_encoding_2d else 1
        self._frequencies = kernels.rotary_frequencies(config.head_size // axes, self.device)

    # -- sequences --------------------------------------------------------------------------

    def split(self, ids: Sequence[int]) -> Split:
        """Part ids at their first <sop>; the first [gMASK], else the first [MASK], gives the position.

        Raises ModelError where one of them is missing.
        """
        config = self.config
        for mask in (config.gmask_token_id, config.mask_token_id):
            if mask in ids and config.bos_token_id in ids:
                context = ids.index(config.bos_token_id)
                return Split(ids[:context], ids[context:], ids.index(mask))
        raise ModelError(
            f"the ids hold no <sop> ({config.bos_token_id}) or no [gMASK] ({config.gmask_token_id})",
            remedy="end the prompt with both; `model.prompt.build_inputs` does",
        )

    def new_cache(self, prefix: Prefix | None = None, *, room: int = 64) -> KVCache:
        """A cache for a sequence of about `room` tokens, which a prefix begins (its keys are not rotated)."""
        config = self.config
        if prefix is not None:
            self._check(prefix)
            room += prefix.length
        cache = KVCache(
            config.num_layers, room, config.num_attention_heads, config.head_size, self.dtype, self.device
        )
        if prefix is not None:
            for layer, (key, value) in enumerate(prefix.values.detach()):
                cache.append(layer, key, value)
        return cache

    # -- passes -----------------------------------------------------------------------------

    def begin(self, sequences: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        """Read prompts into their caches; returns the logits after each one's last token, [batch, vocab]."""
        splits = [self.split(ids) for ids in sequences]
        self.prefill(splits, caches)
        return self.extend([split.answer for split in splits], caches)

    def prefill(self, splits: Sequence[Split], caches: Sequence[KVCache]) -> None:
        """Read the contexts into their caches; there are no logits yet."""
        for _ in self.prefill_by_layer(splits, caches):
            pass

    def prefill_by_layer(self, splits: Sequence[Split], caches: Sequence[KVCache]) -> Iterator[None]:
        """The same in steps of a layer, between which other work can be done or the prompt given up."""
        for split, cache in zip(splits, caches, strict=True):
            cache.mask_position, cache.answered = split.mask_position, 0
        contexts = [split.context for split in splits]
        positions = [[(t, 0) for t in range(len(context))] for context in contexts]
        if any(contexts):
            yield from self._layers(contexts, positions, self._into(caches, contexts, causal=False))

    def extend(self, answers: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        """Read some tokens of each answer; returns the logits after each one's last token, [batch, vocab]."""
        positions = []
        for answer, cache in zip(answers, caches, strict=True):
            begin, cache.answered = cache.answered + 1, cache.answered + len(answer)
            positions.append([(cache.mask_position, begin + t) for t in range(len(answer))])
        hidden = _run(self._layers(answers, positions, self._into(caches, answers, causal=True)))
        last = torch.tensor([len(answer) for answer in answers], device=self.device).cumsum(0) - 1
        return self.head(hidden[last])

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Read one token of each answer; returns the logits after it, [batch, vocab]."""
        return self.extend([[token] for token in tokens], caches)

    def logits(self, ids: Sequence[int], prefix: Prefix | None = None) -> Tensor:
        """Logits after every token as one exact pass gives them, float32 [tokens, vocab].

        Differentiable with regard to `prefix.values`.
        """
        split = self.split(ids)
        context = len(split.context)
        if prefix is not None:
            self._check(prefix)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if prefix is not None:
                key = torch.cat((prefix.values[layer, 0], key))
                value = torch.cat((prefix.values[layer, 1], value))
            seen = len(key) - len(split.answer)
            return torch.cat(
                (
                    kernels.attention(query[:context], key[:seen], value[:seen]),
                    kernels.attention(query[context:], key, value, causal=True),
                )
            )

        positions = [(t, 0) for t in range(context)]
        positions += [(split.mask_position, t + 1) for t in range(len(split.answer))]
        return self.head(_run(self._layers([ids], [positions], attend)))

    # -- layers -----------------------------------------------------------------------------

    def block(self, layer: int, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """One layer over x [tokens, hidden]; residuals start from the normalised input."""
        block: Block = self.weights.blocks[layer]
        a = self._norm(x, block.input_layernorm)
        qkv = kernels.linear(a, block.query_key_value.weight, block.query_key_value.bias)
        heads = self.config.num_attention_heads
        query, key, value = qkv.view(len(x), heads, 3, self.config.head_size).unbind(2)
        context = attend(layer, kernels.rotate(query, *rotary), kernels.rotate(key, *rotary), value)
        c = kernels.linear(context.flatten(1), block.dense.weight, block.dense.bias)
        m = self._norm(kernels.residual(a, c, ALPHA), block.post_attention_layernorm)
        inner = kernels.gelu(kernels.linear(m, block.dense_h_to_4h.weight, block.dense_h_to_4h.bias))
        return kernels.residual(
            m, kernels.linear(inner, block.dense_4h_to_h.weight, block.dense_4h_to_h.bias), ALPHA
        )

    def embed(self, ids: Sequence[int]) -> Tensor:
        """[tokens, hidden]. Raises ModelError for an id outside the vocabulary."""
        if ids and not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise ModelError(
                f"an id lies outside the vocabulary of {self.config.vocab_size}",
                remedy="use the tokenizer that came with the weights",
            )
        table = self.weights.word_embeddings
        return kernels.embed(torch.tensor(ids, dtype=torch.long, device=self.device), table, self.dtype)

    def rotary(self, positions: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """The tables for (position, block position) of every token."""
        where = torch.tensor(positions, dtype=torch.long, device=self.device)
        if not self.config.position_encoding_2d:
            where = where[:, :1]
        return kernels.rotary_tables(where, self._frequencies, self._rotary_dtype)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of normalised hidden states, float32; the output matrix is the embedding."""
        return kernels.linear(hidden, self.weights.word_embeddings).float()

    def _layers(
        self,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[tuple[int, int]]],
        attend: Attend,
    ) -> Generator[None, None, Tensor]:
        """Yields after each layer; returns normalised hidden states of all sequences, [tokens, hidden]."""
        x = self.embed([token for sequence in sequences for token in sequence])
        rotary = self.rotary([place for places in positions for place in places])
        for layer in range(self.config.num_layers):
            x = self.block(layer, x, rotary, attend)
            yield
        return self._norm(x, self.weights.final_layernorm)

    def _into(self, caches: Sequence[KVCache], sequences: Sequence[Sequence[int]], *, causal: bool) -> Attend:
        """Attention of every sequence to its own cache, which its keys and values go into first."""
        lengths = [len(sequence) for sequence in sequences]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            parts = (torch.split(tensor, lengths) for tensor in (query, key, value))
            return torch.cat(
                [
                    kernels.attention(q, *cache.append(layer, k, v), causal=causal and len(q) > 1)
                    for cache, q, k, v in zip(caches, *parts, strict=True)
                ]
            )

        return attend

    def _check(self, prefix: Prefix) -> None:
        config, shape = self.config, tuple(prefix.values.shape)
        wanted = (config.num_layers, 2, prefix.length, config.num_attention_heads, config.head_size)
        if shape != wanted:
            raise ModelError(
                f"a prefix of the shape {list(shape)} does not fit this model, which wants {list(wanted)}",
                remedy="load it by `model.load_prefix` for this very model",
            )

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        return kernels.layer_norm(x, norm.weight, norm.bias, self.config.layernorm_epsilon)


def _run(layers: Generator[None, None, Tensor]) -> Tensor:
    """All layers at once."""
    while True:
        try:
            next(layers)
        except StopIteration as end:
            hidden: Tensor = end.value
            return hidden
