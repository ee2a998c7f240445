"""From logits to the next token, in the order of the published model (spec/chatglm-6b.md, section 8).

Repetition penalty, rule for broken logits, temperature, top-k, top-p, softmax, draw. Nothing here sorts the
whole vocabulary where a part of it is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog
import torch
from torch import Tensor

from model.types import GenerationParams, ModelError

log = structlog.get_logger(__name__)

BLANK_ID = 5
"""The piece "▁" of the slim vocabulary, which takes the place of broken logits."""
BLANK_SCORE = 5e4
TOP_K = 50
"""What the published model samples from unless told otherwise: transformers' default, as it brings none."""


def guard(logits: Tensor, fallback_id: int = BLANK_ID) -> Tensor:
    """Where a value is NaN or infinite, all become 0 and `fallback_id` of each row 5e4; else `logits` itself.

    logits [..., V]. The published model applies this to its whole batch; a batch of strangers goes through it
    row by row, as in `Sampler`, so that one broken row does not spoil the others.
    """
    low, high = logits.aminmax()  # NaN wins both
    if math.isfinite(low) and math.isfinite(high):
        return logits
    safe = torch.zeros_like(logits)
    safe[..., fallback_id] = BLANK_SCORE
    return safe


def apply_repetition_penalty(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Make each token of `seen` less likely, once: positive logits [V] are divided, negative multiplied.

    Source: Keskar et al. 2019 (CTRL), with the rule for negative scores that transformers uses.
    """
    if penalty == 1 or not seen:
        return logits
    ids = torch.tensor(seen, dtype=torch.long, device=logits.device)
    scores = logits[ids]
    return logits.index_put((ids,), torch.where(scores > 0, scores / penalty, scores * penalty))


def candidates(logits: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The tokens of one row [V] that may be drawn, ids ascending, and their probabilities.

    `temperature` is positive. `top_k` 0 is off; ties with the k-th stay. `top_p` of 1 or more is off; the
    smallest set stays that holds more than `top_p`, of equal tokens the later ones, and always one.
    """
    ids = _top_k(logits, top_k)
    scores = logits if ids is None else logits[ids]
    if temperature != 1:
        scores = (scores - scores.max()) / temperature  # at a temperature near 0 the plain quotient overflows
    probs = scores.softmax(-1)
    if top_p < 1:
        kept = _top_p(probs, top_p)
        ids = kept if ids is None else ids[kept]
        probs = scores[kept].softmax(-1)
    if ids is None:
        ids = torch.arange(len(logits), device=logits.device)
    return ids, probs


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The distribution that is drawn from, float32 of the shape of `logits` ([V] or [B, V]).

    `temperature` is positive and the logits finite (`guard`).
    """
    rows = logits.float().reshape(-1, logits.shape[-1])
    result = torch.zeros_like(rows)
    for row, out in zip(rows, result, strict=True):
        ids, probs = candidates(row, temperature, top_k, top_p)
        out[ids] = probs
    return result.view(logits.shape)


class Sampler:
    """Draws the tokens of one sequence; with a seed the same ones whatever else runs beside it.

    `limit` hides all ids from there on: the rows that only pad the vocabulary. Broken logits are logged the
    first time. Raises ModelError for parameters that mean nothing.
    """

    def __init__(
        self, params: GenerationParams, *, fallback_id: int = BLANK_ID, limit: int | None = None
    ) -> None:
        _check(params)
        self.params = params
        self.fallback_id = fallback_id
        self.limit = limit
        self._warned = False
        self._upcoming: float | None = None
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % 2**64)

    def next(self, logits: Tensor, seen: Sequence[int] = ()) -> int:
        """The next token's id; logits [V], `seen` is the prompt and all generated so far.

        A temperature of 0 or below takes the likeliest token, of equal ones the lowest id.
        """
        params = self.params
        scores = apply_repetition_penalty(logits.detach().float(), seen, params.repetition_penalty)
        scores = self._guarded(scores[: self.limit])
        if params.temperature <= 0:
            return int(scores.argmax())
        top_k = TOP_K if params.top_k is None else params.top_k
        ids, probs = candidates(scores, params.temperature, top_k, params.top_p)
        reached = probs.cumsum(-1, dtype=torch.float64)
        index = int(torch.searchsorted(reached, self.draw() * float(reached[-1]), right=True))
        return int(ids[min(index, len(ids) - 1)])

    def draw(self) -> float:
        """Take the sequence's next random number from [0, 1), for who samples elsewhere.

        `next` takes one a token: so the sequence of numbers does not hang on how many tokens may be drawn.
        """
        drawn, self._upcoming = self.peek(), None
        return drawn

    def peek(self) -> float:
        """The number that `draw` will take: a step that fails before there is a token may be made again."""
        if self._upcoming is None:
            self._upcoming = float(torch.rand((), dtype=torch.float64, generator=self._generator))
        return self._upcoming

    def _guarded(self, logits: Tensor) -> Tensor:
        safe = guard(logits, self.fallback_id)
        if safe is not logits:
            self.warn_of_broken()
        return safe

    def warn_of_broken(self) -> None:
        """Tell the log, once, that logits were not finite."""
        if not self._warned:
            self._warned = True
            log.warning("logits are not finite: are the weights damaged?", token=self.fallback_id)


def _top_k(logits: Tensor, top_k: int) -> Tensor | None:
    """Ids, ascending, of all logits [V] that reach the k-th largest; None where that is all of them."""
    if top_k <= 0 or top_k >= len(logits):
        return None
    values, ids = logits.topk(top_k + 1)
    if values[-1] == values[-2]:  # topk cuts through equal values
        return (logits >= values[-1]).nonzero().squeeze(-1)
    return ids[:-1].sort().values


def _top_p(probs: Tensor, top_p: float) -> Tensor:
    """Indices, ascending, that stay of probs [n] when the least likely go while their sum is <= 1 - top_p."""
    dropped = 1 - top_p
    # what lies below the bound goes in any case and needs no sorting: together it does not reach `dropped`
    bound = float(probs.max()) / 1000
    if float(torch.threshold(probs, bound, 0).sum()) < 1 - 0.99 * dropped:
        bound = 0.99 * dropped / len(probs)
    likely = (probs >= bound).nonzero().squeeze(-1)
    ordered, order = probs[likely].sort(stable=True)
    reached = ordered.cumsum(-1, dtype=torch.float64)
    below = probs.sum(dtype=torch.float64) - reached[-1]
    stays = (below + reached).float() > dropped
    stays[-1] = True
    return likely[order[stays]].sort().values


def _check(params: GenerationParams) -> None:
    for name in ("temperature", "top_p", "repetition_penalty"):
        if math.isnan(getattr(params, name)):
            raise ModelError(f"{name} is not a number", remedy=f"set {name} to a number")
    if params.repetition_penalty <= 0:
        raise ModelError(
            f"repetition_penalty {params.repetition_penalty:g} is not positive",
            remedy="set repetition_penalty to 1 (off) or above",
        )
