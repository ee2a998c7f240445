"""Every kernel and the whole model on this machine's card, in one table and one file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from model.bench import card_kernels, card_model
from model.bench.card_kernels import Cell, Scale, Timer, copy_bandwidth
from model.bench.card_model import SUBJECTS, Plan, Rate
from model.bench.report import Target, table, target_cells
from model.config import ChatGLMConfig
from model.kernels.launcher import Launcher

CARDS = {"RTX 3060": 360e9, "RTX 3090": 936e9, "RTX 4090": 1008e9, "RTX 5090": 1792e9}
"""Bytes a second, as their maker tells them."""
_COPIED = 0.92
"""Of those, what a copy reaches; the share of the card at hand is measured the same way."""
_TARGETS = (
    "whole step, batch 1: of the bandwidth",
    "batch 1 against the original",
    "50 x 512 against one answer of the original",
)


@dataclass(slots=True)
class Findings:
    """What was measured on a card.

    memory: bytes that our own way took at most. too_large: ways that there was no room for, wholly or partly.
    """

    card: str
    driver: str = ""
    bandwidth: float = 0.0
    memory: int = 0
    cells: list[Cell] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    first_tokens: dict[str, float] = field(default_factory=dict)
    too_large: list[str] = field(default_factory=list)

    def rate(self, subject: str, name: str) -> Rate | None:
        """One of them."""
        return next((one for one in self.rates if (one.subject, one.name) == (subject, name)), None)

    def targets(self) -> Iterator[Target]:
        """What is wanted of the whole model."""
        ours, theirs = (self.rate(subject, "batch 1 x 512") for subject in (SUBJECTS[0], SUBJECTS[2]))
        many = self.rate(SUBJECTS[0], "batch 50 x 512")
        if ours is not None:
            share = ours.nbytes / ours.step_seconds / self.bandwidth
            yield Target(_TARGETS[0], 100 * share, ">=", 65, "%")
        if ours is not None and theirs is not None:
            yield Target(_TARGETS[1], theirs.step_seconds / ours.step_seconds, ">=", 8, "x")
        if many is not None and theirs is not None:
            yield Target(_TARGETS[2], many.tokens_per_second / theirs.tokens_per_second, ">=", 20, "x")

    def estimates(self) -> dict[str, dict[str, float]]:
        """Tokens a second on other cards: these, as the bandwidths compare."""
        own = [rate for rate in self.rates if rate.subject == SUBJECTS[0] and rate.name.startswith("batch")]
        return {
            card: {rate.name: rate.tokens_per_second * _COPIED * bandwidth / self.bandwidth for rate in own}
            for card, bandwidth in CARDS.items()
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.card}, driver for CUDA {self.driver}: a copy moves {self.bandwidth / 1e9:.0f} GB/s"
        yield ""
        yield from table([_cell(cell) for cell in self.cells])
        yield ""
        yield from table([_rate(rate) for rate in self.rates])
        yield ""
        yield from table([target_cells(target) for target in self.targets()])
        for name, seconds in self.first_tokens.items():
            yield f"- {name}: first token after {1e3 * seconds:.0f} ms"
        yield f"- most memory taken by {SUBJECTS[0]}: {self.memory / 1e9:.2f} GB"
        for name in self.too_large:
            yield _told_too_large(name)
        for card, rates in self.estimates().items():
            told = ", ".join(f"{name}: {rate:.0f}" for name, rate in rates.items())
            yield f"- ESTIMATE, not measured, tok/s on an {card} by its bandwidth: {told}"

    def write(self, file: Path) -> None:
        """As JSON."""
        found = asdict(self) | {
            "benchmark": "gpu",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "torch": torch.__version__,
            "cells": [{**asdict(cell), "met": cell.met} for cell in self.cells],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets()],
            "estimates": self.estimates(),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def measure(
    found: Findings,
    launcher: Launcher,
    device: torch.device,
    timer: Timer,
    say: Callable[[str], None],
    *,
    scale: Scale = card_kernels.TRUE_SIZE,
    config: ChatGLMConfig | None = None,
    plan: Plan | None = None,
) -> None:
    """Fill in what was found, and say each figure as it comes."""
    nbytes = min(1 << 30, 4 * scale.beyond_cache)
    found.bandwidth = copy_bandwidth(timer, device, nbytes)
    for cell in card_kernels.measure(launcher, device, timer, found.bandwidth, scale):
        found.cells.append(cell)
        say("  ".join(_cell(cell).values()))

    def too_large(name: str) -> None:
        found.too_large.append(name)
        say(_told_too_large(name))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    of_model = card_model.measure(launcher, config or ChatGLMConfig(), device, plan or Plan(), too_large)
    for rate, first in of_model:
        found.rates.append(rate)
        if device.type == "cuda" and rate.subject == SUBJECTS[0]:
            found.memory = torch.cuda.max_memory_allocated(device)
        if first is not None:
            found.first_tokens[f"{rate.subject}, {rate.name}"] = first
        say("  ".join(_rate(rate).values()))


def planned() -> Iterator[str]:
    """Everything that waits for a card."""
    yield from card_kernels.planned()
    plan = Plan()
    for subject in plan.subjects:
        for batch in plan.batches:
            yield f"{subject}: tokens a second, batch {batch} x {plan.context}"
        for tokens in plan.prompts:
            yield f"{subject}: prompt of {tokens}, and its first token"
    yield from _TARGETS
    yield f"most memory taken by {SUBJECTS[0]}"


def _told_too_large(name: str) -> str:
    return f"- {name}: the card has no room for it, or for more of it than the table has"


def _cell(cell: Cell) -> dict[str, str]:
    share = "" if cell.share is None else f"{100 * cell.share:.0f} %"
    wanted = "" if cell.least_share is None else f">= {100 * cell.least_share:.0f} %"
    if cell.most_seconds is not None:
        wanted = f"<= {1e6 * cell.most_seconds:.0f} us"
    met = {True: "yes", False: "NO", None: ""}[cell.met]
    seconds = f"{1e6 * cell.seconds:.1f} us"
    return {"kernel": cell.name, "time": seconds, "of the bandwidth": share, "wanted": wanted, "met": met}


def _rate(rate: Rate) -> dict[str, str]:
    return {
        "model": rate.subject,
        "work": rate.name,
        "tok/s": f"{rate.tokens_per_second:.1f}",
        "step": f"{1e3 * rate.step_seconds:.2f} ms",
    }
