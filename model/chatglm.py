"""The network of first-generation ChatGLM (spec/chatglm-6b.md, sections 3 and 4), in a sitting.

A prompt up to and including its [gMASK] sees itself as a whole, so its prefill needs no mask; <sop> and the
answer come after it one by one, each seeing all before it: <sop> is simply the first token to be decoded.
Sequences of a batch stand one after another without padding; only attention tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from model.config import ChatGLMConfig
from model.kernels import rotary
from model.kernels.operations import Operations
from model.kernels.reference import attend
from model.kv_cache import KVBatch, KVCache, KVPages, Storage
from model.prefix import Prefix
from model.reading import Place, Reading, Rotary, Split
from model.types import ModelError
from model.weights import Block, Linear, Norm, Weights

ALPHA = math.sqrt(2 * 28)
"""Weight of the residual; the published blocks never learn how many layers there are."""

Attend: TypeAlias = Callable[[int, Tensor, Rotary], Tensor]
"""(layer, qkv [tokens, 3 * hidden], rotary) to the context [tokens, hidden]."""


class ChatGLM:
    """The network over given weights, which `operations` can read."""

    def __init__(
        self,
        config: ChatGLMConfig,
        weights: Weights,
        operations: Operations,
        *,
        rotary_dtype: torch.dtype = torch.float32,
    ) -> None:
        """`rotary_dtype`: float16 repeats the tables of the published model on a GPU."""
        self.config = config
        self.weights = weights
        self.operations = operations
        self.device = weights.final_layernorm.weight.device
        self._rotary_dtype = rotary_dtype
        axes = 2 if config.position_encoding_2d else 1
        self._frequencies = rotary.frequencies(config.head_size // axes, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        return self.operations.dtype

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

    def new_pages(self, count: int, storage: Storage) -> KVPages:
        """A pool of pages for sequences of this network."""
        config = self.config
        return KVPages(
            count,
            layers=config.num_layers,
            heads=config.num_attention_heads,
            head_size=config.head_size,
            storage=storage,
            device=self.device,
        )

    def prefix_cache(self, prefix: Prefix, pages: KVPages) -> KVCache:
        """A cache that holds a prefix (whose keys are not rotated); sequences with that prefix fork it.

        Raises OutOfPages.
        """
        self._check(prefix)
        cache = KVCache(pages)
        batch = KVBatch([cache], [prefix.length])
        for layer, (key, value) in enumerate(prefix.values.detach()):
            pages.write(layer, batch.slots, key, value)
        batch.commit()
        return cache

    # -- passes -----------------------------------------------------------------------------

    def begin(self, sequences: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        """Read prompts into their caches; returns the logits after each one's last token, [batch, vocab]."""
        splits = [self.split(ids) for ids in sequences]
        self.prefill(splits, caches)
        return self.extend([split.answer for split in splits], caches)

    def prefill(self, splits: Sequence[Split], caches: Sequence[KVCache]) -> None:
        """Read the contexts into their caches; there are no logits yet. Raises OutOfPages."""
        reading = self.reading(splits, caches)
        while not reading.step():
            pass

    def reading(
        self, splits: Sequence[Split], caches: Sequence[KVCache], *, rows: int | None = None
    ) -> Reading:
        """The same in slices of at most `rows` tokens, between which other work can be done."""
        return Reading(self, splits, caches, rows=rows)

    def extend(self, answers: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        """Read some tokens of each answer; returns the logits after each one's last token, [batch, vocab].

        Raises OutOfPages.
        """
        operations, batch = self.operations, KVBatch(caches, [len(answer) for answer in answers])

        def attend_pages(layer: int, qkv: Tensor, rotary: Rotary) -> Tensor:
            query, _, _ = operations.rope_kv(qkv, *rotary, batch.pages, batch.slots, layer)
            return operations.attention(query, batch, layer)

        places = [
            (cache.mask_position, cache.answered + t + 1)
            for answer, cache in zip(answers, caches, strict=True)
            for t in range(len(answer))
        ]
        ids = [token for answer in answers for token in answer]
        a, tables = self.begin_with(ids), self.rotary(places)
        hidden = operations.layers(a, self.weights, tables, batch, ALPHA, self.config.layernorm_epsilon)
        if hidden is None:
            hidden = self._layers(a, tables, attend_pages)
        batch.commit()
        for answer, cache in zip(answers, caches, strict=True):
            cache.answered += len(answer)
        last = torch.tensor(batch.lengths, device=self.device).cumsum(0) - 1
        return self.head(hidden[last])

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Read one token of each answer; returns the logits after it, [batch, vocab]."""
        return self.extend([[token] for token in tokens], caches)

    def logits(self, ids: Sequence[int], prefix: Prefix | None = None) -> Tensor:
        """Logits after every token as one exact pass gives them, float32 [tokens, vocab].

        Needs no pages. Differentiable with regard to `prefix.values` where the operations are.
        """
        split = self.split(ids)
        context = len(split.context)
        if prefix is not None:
            self._check(prefix)

        def attend_all(layer: int, qkv: Tensor, tables: Rotary) -> Tensor:
            query, key, value = rotary.split_and_rotate(qkv, self.config.num_attention_heads, *tables)
            if prefix is not None:
                key = torch.cat((prefix.values[layer, 0], key))
                value = torch.cat((prefix.values[layer, 1], value))
            key, value = key.transpose(0, 1), value.transpose(0, 1)
            seen = key.shape[1] - len(split.answer)
            return torch.cat(
                (
                    attend(query[:context], key[:, :seen], value[:, :seen]),
                    attend(query[context:], key, value, causal=True),
                )
            )

        places = [(t, 0) for t in range(context)]
        places += [(split.mask_position, t + 1) for t in range(len(split.answer))]
        return self.head(self._layers(self.begin_with(ids), self.rotary(places), attend_all))

    # -- layers -----------------------------------------------------------------------------

    def embed(self, ids: Sequence[int]) -> Tensor:
        """[tokens, hidden]. Raises ModelError for an id outside the vocabulary."""
        if ids and not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise ModelError(
                f"an id lies outside the vocabulary of {self.config.vocab_size}",
                remedy="use the tokenizer that came with the weights",
            )
        where = torch.tensor(ids, dtype=torch.long, device=self.device)
        return self.operations.embed(where, self.weights.word_embeddings)

    def begin_with(self, ids: Sequence[int]) -> Tensor:
        """The first layer's normalised input, [tokens, hidden]. Raises as `embed`."""
        return self.normalise(self.embed(ids))

    def normalise(self, embedded: Tensor) -> Tensor:
        """The first layer's normalised input of embedded tokens."""
        return self.operations.norm(embedded, self._norm_before(0), self.config.layernorm_epsilon)

    def rotary(self, places: Sequence[Place]) -> Rotary:
        """The tables for every token."""
        where = torch.tensor(places, dtype=torch.long, device=self.device)
        return self.rotary_of(where if self.config.position_encoding_2d else where[:, :1])

    def rotary_of(self, positions: Tensor) -> Rotary:
        """The tables for positions [tokens, axes] on the device."""
        return rotary.tables(positions, self._frequencies, self._rotary_dtype)

    def project(self, layer: int, a: Tensor) -> Tensor:
        """Queries, keys and values of a layer, [tokens, 3 * hidden], from its normalised input."""
        return self._linear(a, self.weights.blocks[layer].query_key_value)

    def finish(self, layer: int, a: Tensor, context: Tensor) -> Tensor:
        """The rest of a layer after attention; returns the next one's normalised input, [tokens, hidden].

        Residuals start from the normalised input. Like `project` it works on rows, any slice of them.
        """
        block: Block = self.weights.blocks[layer]
        m = self._residual_norm(a, self._linear(context, block.dense), block.post_attention_layernorm)
        inner = self._linear(m, block.dense_h_to_4h, gelu=True)
        return self._residual_norm(m, self._linear(inner, block.dense_4h_to_h), self._norm_before(layer + 1))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of normalised hidden states, float32; the output matrix is the embedding."""
        return self.operations.linear(hidden, self.weights.word_embeddings).float()

    def _layers(self, a: Tensor, tables: Rotary, attend: Attend) -> Tensor:
        """Normalised hidden states after all layers, [tokens, hidden]."""
        for layer in range(self.config.num_layers):
            a = self.finish(layer, a, attend(layer, self.project(layer, a), tables))
        return a

    def _norm_before(self, layer: int) -> Norm:
        """What normalises the input of a layer; after the last one, that of the head."""
        blocks = self.weights.blocks
        return blocks[layer].input_layernorm if layer < len(blocks) else self.weights.final_layernorm

    def _linear(self, x: Tensor, linear: Linear, *, gelu: bool = False) -> Tensor:
        return self.operations.linear(x, linear.weight, linear.bias, gelu=gelu)

    def _residual_norm(self, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
        return self.operations.residual_norm(x, y, ALPHA, norm, self.config.layernorm_epsilon)

    def _check(self, prefix: Prefix) -> None:
        config, shape = self.config, tuple(prefix.values.shape)
        wanted = (config.num_layers, 2, prefix.length, config.num_attention_heads, config.head_size)
        if shape != wanted:
            raise ModelError(
                f"a prefix of the shape {list(shape)} does not fit this model, which wants {list(wanted)}",
                remedy="load it by `model.load_prefix` for this very model",
            )
