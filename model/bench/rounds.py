"""Measures subjects in turn, probes between, so that what else the machine does meets all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.bench.figures import Costs, Figure, Reached, Unit, Work
from model.bench.probe import Limits, Probe
from model.bench.subject import CONTEXT, Subject

BATCHES = (1, 4, 8, 16, 32)
PROMPTS = (32, 128, 512)
STEPS = 16
"""Tokens of a measurement, over all sequences; but never fewer than two steps."""
LONG = 512
"""A prompt that long is read three times at most."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is told of one measurement; tokens: None for a time."""

    name: str
    unit: Unit
    tokens: int | None
    works: Callable[[Costs], list[Work]]


class Rounds:
    """layers: of the whole model; subjects that have fewer are told as if they had all."""

    def __init__(self, subjects: Sequence[Subject], probe: Probe | None, *, repeat: int, layers: int) -> None:
        self._subjects = subjects
        self._probe = probe
        self._repeat = repeat
        self._layers = layers

    def decode(self, batch: int) -> list[Figure]:
        """Tokens a second of whole steps, the sum over the batch; a figure for each subject."""
        steps = max(2, STEPS // batch)
        length = CONTEXT + steps / 2
        part = _Part(f"decode, batch {batch}", "tok/s", batch, lambda costs: [costs.step(batch, length)])
        subjects = [subject for subject in self._subjects if subject.most >= batch]
        return self._measure(
            [part], subjects, lambda subject: [subject.decode(batch, steps) / steps], self._repeat
        )

    def prefill(self, tokens: int) -> list[Figure]:
        """Tokens a second until a prompt is read, and seconds until the first one of its answer."""
        read = _Part(f"prefill, {tokens} tokens", "tok/s", tokens, lambda costs: [costs.prefill(tokens)])
        first = _Part(
            f"first token after {tokens}",
            "s",
            None,
            lambda costs: [costs.prefill(tokens), costs.step(1, tokens)],
        )

        def run(subject: Subject) -> list[float]:
            times = subject.prefill(tokens)
            return [times.read, times.first]

        repeat = min(3, self._repeat) if tokens >= LONG else self._repeat
        return self._measure([read, first], self._subjects, run, repeat)

    def _measure(
        self,
        parts: Sequence[_Part],
        subjects: Sequence[Subject],
        run: Callable[[Subject], list[float]],
        repeat: int,
    ) -> list[Figure]:
        figures = {
            (subject.name, part.name): Figure(subject.name, part.name, part.unit)
            for part in parts
            for subject in subjects
        }
        before = self._limits()
        for _ in range(repeat):
            for subject in subjects:
                taken = run(subject)
                after = self._limits()
                for part, seconds in zip(parts, taken, strict=True):
                    self._add(figures[subject.name, part.name], part, seconds, subject.costs, before, after)
                before = after
        return list(figures.values())

    def _add(
        self,
        figure: Figure,
        part: _Part,
        seconds: float,
        costs: Costs,
        before: Limits | None,
        after: Limits | None,
    ) -> None:
        works, whole = part.works(costs), part.works(costs.with_layers(self._layers))
        grown = sum(work.macs for work in whole) / sum(work.macs for work in works)
        if before is not None and after is not None:
            figure.reached.append(Reached.between(before, after, works, seconds))
            mean = before.mean(after)
            grown = sum(work.seconds(mean) for work in whole) / sum(work.seconds(mean) for work in works)
        figure.intensity = sum(work.macs for work in works) / sum(work.nbytes for work in works)
        seconds *= grown
        figure.values.append(seconds if part.tokens is None else part.tokens / seconds)

    def _limits(self) -> Limits | None:
        return None if self._probe is None else self._probe.limits()
